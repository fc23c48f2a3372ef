"""Pseudonyms: what stands in a number's place once it is purged.

The same number has the same pseudonym everywhere, so that what belongs together still does. Nobody
can make one, or try all numbers, without the key, which is kept outside the database.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode

from gateways.gateway import Secret
from runtime import Problem
from runtime.settings import Settings, kept_secret

_MAINLAND = re.compile(r"1[3-9]\d{9}", re.ASCII)
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class OtherKey(Problem):
    """The key is not the one that the database's pseudonyms were made with."""


class Pseudonyms:
    """Makes pseudonyms of normalised numbers with one key."""

    def __init__(self, key: Secret) -> None:
        self._key = hashlib.sha256(key.reveal().encode()).digest()

    @property
    def fingerprint(self) -> bytes:
        """What tells keys apart and nothing about them."""
        return self._mac(b"fingerprint")

    def of(self, phone: str) -> str:
        """Return the pseudonym of `phone`; that of a pseudonym is itself. Pure.

        A mainland mobile number keeps its first four digits (号段, which ten million share) and its
        length, so that counts by carrier stay; of another nothing is kept. One letter stands in each,
        and in no number.
        """
        if not phone.isdigit():
            return phone
        made = self._mac(b"phone", phone.encode())
        letter = _LETTERS[made[0] % len(_LETTERS)]
        rest = urlsafe_b64encode(made[1:17]).decode()
        if _MAINLAND.fullmatch(phone):
            return f"{phone[:4]}{letter}{rest[:6]}"
        return f"{letter}{rest[:21]}"

    def _mac(self, *parts: bytes) -> bytes:
        return hmac.new(self._key, b"\0".join(parts), hashlib.sha256).digest()


def pseudonyms(settings: Settings) -> Pseudonyms:
    """Make pseudonyms with the key of the settings, else with the one kept in `data_dir`.

    Makes that one if it is not there. Raises `SettingsError`.
    """
    given = settings.retention.pseudonym_key
    return Pseudonyms(given or kept_secret(settings.data_dir / "pseudonym-key"))
