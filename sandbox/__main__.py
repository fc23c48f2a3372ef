"""`python -m sandbox --config FILE`: the sandbox as a program of its own."""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec

from sandbox.app import running
from sandbox.config import Config, ConfigError, load


def _run(config: Config, port_file: str) -> None:
    try:
        import uvloop
    except ImportError:  # only a matter of speed
        asyncio.run(_serve(config, port_file))
    else:
        uvloop.run(_serve(config, port_file))


async def _serve(config: Config, port_file: str) -> None:
    async with running(config) as sandbox:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, sandbox.stop)
        if port_file:
            _write_port(port_file, sandbox.port)
        print(f"sandbox listening on {sandbox.url}", flush=True)
        await sandbox.stopped


def _write_port(port_file: str, port: int) -> None:
    """Write whole or not at all: whoever waits for the file reads it at once."""
    half = Path(f"{port_file}.part")
    half.write_text(f"{port}\n", encoding="utf-8")
    os.replace(half, port_file)


def main() -> int:
    parser = argparse.ArgumentParser(prog="sandbox", description="Pretend SMS vendors.")
    parser.add_argument("--config", required=True, help="TOML file")
    parser.add_argument("--port", type=int, help="in place of the file's; 0 takes a free one")
    parser.add_argument("--port-file", default="", help="write the port there once it listens")
    options = parser.parse_args()
    try:
        config = load(options.config)
        if options.port is not None:
            config = msgspec.structs.replace(config, port=options.port)
        _run(config, options.port_file)
    except (ConfigError, OSError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
