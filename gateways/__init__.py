"""Every vendor dialect that Huizhi speaks, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from gateways import deepfinch, itniotech, onecloudsp, thinkapi, thinksms
from gateways.gateway import Gateway

GATEWAYS: Mapping[str, Gateway] = MappingProxyType(
    {
        gateway.name: gateway
        for gateway in (
            thinkapi.GATEWAY,
            thinksms.GATEWAY,
            onecloudsp.GATEWAY,
            itniotech.GATEWAY,
            deepfinch.GATEWAY,
        )
    }
)
