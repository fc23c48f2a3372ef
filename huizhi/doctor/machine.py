"""What can be examined on this machine alone: files, the spool, disks, tokens, ports."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec

from huizhi.doctor.finding import Finding, failed, ok, warning
from receiver.spool import Spool
from reconciler import channels
from reconciler.channels import NoChannel
from runtime import Problem
from runtime.settings import Settings, api_token_file
from runtime.sockets import bind

# Shorter ones can be guessed.
_GUESSABLE = 16
_LITTLE_BYTES, _LITTLE_SHARE = 2 * 1024**3, 0.1
_NEXT_TO_NOTHING_BYTES = 256 * 1024**2
_OLD_SECONDS = 60.0
_NEARLY_FULL = 0.8
_ANSWER_SECONDS = 5.0
_OK = 200
_READINESS = {(200, "ready"), (503, "cannot store"), (503, "database away")}


def examine_machine(settings: Settings) -> Iterator[Finding]:
    """Examine what needs neither the database nor the network."""
    yield _folder(settings.data_dir)
    yield _disk(settings.data_dir)
    yield from _spool(settings)
    yield from _tokens(settings)
    yield from _accounts(settings)


def _folder(folder: Path) -> Finding:
    there = _nearest(folder)
    if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
        return failed(
            "data_dir",
            f"{there} cannot be written to by this user",
            "give it to the user that runs Huizhi, or set another data_dir",
        )
    if there != folder:
        return ok("data_dir", f"{folder} is not there yet, and can be made")
    return ok("data_dir", f"{folder} can be written to")


def _nearest(folder: Path) -> Path:
    """Return `folder`, or what is there of the way to it."""
    return next(
        (each for each in (folder, *folder.parents) if each.exists()), Path(folder.anchor or ".")
    )


def _disk(folder: Path) -> Finding:
    try:
        space = shutil.disk_usage(_nearest(folder))
    except OSError as error:
        return failed("disk", f"its space cannot be read: {error.strerror}", "look at the disk")
    left = f"{space.free / 1024**3:.1f} GiB of {space.total / 1024**3:.1f} are free"
    if space.free < _NEXT_TO_NOTHING_BYTES:
        return failed("disk", left, "make room: what is full takes no callback")
    if space.free < _LITTLE_BYTES or space.free < _LITTLE_SHARE * space.total:
        return warning("disk", left, "make room before it is full")
    return ok("disk", left)


def _spool(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir / "spool"
    if not folder.exists():
        yield ok("spool", "there is none yet: the receiver makes it")
        return
    spool = Spool.of(settings)
    most = settings.receiver.spool_max_bytes
    try:
        level = spool.measure()
        takes = spool.takes()
        aside = [path for path in (folder / "set-aside").iterdir() if path.is_file()]
    except FileNotFoundError:
        aside = []
    except OSError as error:
        yield failed(
            "spool",
            f"{folder} cannot be used: {error.strerror}",
            "give it to the user that runs the receiver",
        )
        return
    holds = f"{level.records} callbacks wait in it, {level.bytes} of {most} bytes"
    if not takes:
        yield failed(
            "spool",
            f"it takes nothing more; {holds}",
            "bring the database back, or make room: callbacks are turned away without both",
        )
    elif level.bytes > _NEARLY_FULL * most:
        yield failed("spool", holds, "bring the database back: a full spool turns callbacks away")
    elif level.oldest_seconds > _OLD_SECONDS:
        yield warning(
            "spool",
            f"{holds}, the oldest for {level.oldest_seconds:.0f} seconds",
            "look at the receiver's log: spool.segment_put_off, or database.waiting, says why",
        )
    else:
        yield ok("spool", f"it can be written to; {holds}")
    if aside:
        yield warning(
            "spool",
            f"{len(aside)} pieces were set aside",
            f"look into {folder / 'set-aside'}: a disk damaged them, or the database refused them",
        )


def _tokens(settings: Settings) -> Iterator[Finding]:
    token, file = settings.reconciler.api_token, api_token_file(settings)
    if token is not None:
        if len(token.reveal()) < _GUESSABLE:
            yield warning("token", "api_token can be guessed", "take a longer one")
        else:
            yield ok("token", "api_token is in the settings")
    elif not file.exists():
        yield ok("token", f"there is none yet: the reconciler makes {file}")
    elif not os.access(file, os.R_OK):
        yield failed(
            "token", f"{file} cannot be read by this user", "give it to the one that runs Huizhi"
        )
    elif stat.S_IMODE(file.stat().st_mode) & 0o077:
        yield warning("token", f"others may read {file}", f"chmod 600 {file}")
    else:
        yield ok("token", f"it is in {file}, for its owner only")
    for name, account in settings.accounts.items():
        if any(len(each.reveal()) < _GUESSABLE for each in account.callback_tokens):
            yield warning(
                "token",
                "a callback token can be guessed",
                "take a longer one, and enter its address at the vendor",
                account=name,
            )
        elif not account.callback_tokens and account.gateway.reports:
            yield warning(
                "token",
                "it has no callback_tokens, and so takes no callback",
                "give it one, and enter its address at the vendor",
                account=name,
            )


def _accounts(settings: Settings) -> Iterator[Finding]:
    for name, other in settings.sharing():
        yield warning(
            "accounts",
            f"it has the credentials of {other}: what the vendor hands out or lists for them comes"
            " to either of the two",
            "ask the vendor for a second pair, or make one account of both",
            account=name,
        )


def examine_channels(settings: Settings) -> Iterator[Finding]:
    """Say whether people are told of alarms, as far as that shows without sending."""
    if not settings.alerts:
        yield warning(
            "alerts",
            "nobody is told of alarms: the settings name no channel",
            "give [alerts.NAME] the address of a robot, a mailbox or a webhook: docs/alerts.md",
        )
    for name, channel in settings.alerts.items():
        try:
            channels.check(channel.url)
        except NoChannel as error:
            yield failed(
                "alerts", f"the channel {name}: {error}", "see docs/alerts.md for its form"
            )
        else:
            yield ok("alerts", f"the channel {name} can be tried with huizhi alerts test")


async def examine_ports(settings: Settings) -> list[Finding]:
    """Say whether the services answer at their ports, or could take them."""
    return [
        await _port("receiver", settings.receiver.host, settings.receiver.port),
        await _port("reconciler", settings.reconciler.host, settings.reconciler.port),
    ]


async def _port(name: str, host: str, port: int) -> Finding:
    check, place = f"port of the {name}", f"{host}:{port}"
    if not port:
        return ok(check, "it is 0: a free one is taken at each start")
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_ANSWER_SECONDS) as client:
            answer = await client.get(f"http://{_reached(host)}:{port}/health/ready")
    except httpx.ConnectError:
        return _free(check, name, host, port)
    except httpx.HTTPError as error:
        return failed(
            check,
            f"what listens at {place} does not answer ({type(error).__name__})",
            f"see what it is; if it is the {name}, its log says more",
        )
    if _is_ours(answer):
        if answer.status_code == _OK:
            return ok(check, f"the {name} answers at {place}")
        return failed(
            check,
            f"the {name} at {place} says that it is not ready",
            "bring the database back: what cannot be stored is turned away",
        )
    return failed(
        check,
        f"another program answers at {place}, with HTTP {answer.status_code}",
        f"stop it, or set another port for the {name}",
    )


def _is_ours(answer: httpx.Response) -> bool:
    """Tell a service of ours by the words in which it says whether it is ready."""
    try:
        said = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        return False
    return isinstance(said, dict) and (answer.status_code, said.get("status")) in _READINESS


def _free(check: str, name: str, host: str, port: int) -> Finding:
    try:
        bind(host, port).close()
    except Problem as error:
        return failed(check, str(error), f"stop what holds it, or set another port for the {name}")
    return ok(check, f"{host}:{port} is free: no {name} runs here")


def _reached(host: str) -> str:
    """Return the host at which one that listens on `host` is reached from this machine."""
    if host in ("0.0.0.0", "::"):  # noqa: S104  not bound
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"  # noqa: S104
    return f"[{host}]" if ":" in host else host
