"""The sandbox's one TOML file: common settings, and the accounts of each vendor."""

from pathlib import Path

import msgspec

from sandbox.deepfinch import DeepFinchAccount
from sandbox.itniotech import ItniotechAccount
from sandbox.onecloudsp import OneCloudSpAccount
from sandbox.settings import Settings
from sandbox.thinkapi import ThinkApiAccount
from sandbox.thinksms import ThinkSmsAccount


class ConfigError(ValueError):
    """The file cannot be used; the text names file, key and what was expected."""


class ThinkApiConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    accounts: dict[str, ThinkApiAccount] = {}


class ThinkSmsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    accounts: dict[str, ThinkSmsAccount] = {}


class DeepFinchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    accounts: dict[str, DeepFinchAccount] = {}


class OneCloudSpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    accounts: dict[str, OneCloudSpAccount] = {}


class ItniotechConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    accounts: dict[str, ItniotechAccount] = {}


class Config(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    thinkapi: ThinkApiConfig = ThinkApiConfig()
    thinksms: ThinkSmsConfig = ThinkSmsConfig()
    deepfinch: DeepFinchConfig = DeepFinchConfig()
    onecloudsp: OneCloudSpConfig = OneCloudSpConfig()
    itniotech: ItniotechConfig = ItniotechConfig()


def load(path: str | Path) -> Config:
    """Read a configuration; raises ConfigError."""
    try:
        return msgspec.toml.decode(Path(path).read_bytes(), type=Config)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
