"""The command `hexpath-deploy`: parses, calls one subcommand, turns errors into one line and a code."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from importlib import import_module
from types import ModuleType

from hexpath_deploy import __version__
from hexpath_deploy.errors import DeployError, DiskFullError

# Each module offers add_parser(subparsers) and run(args) -> int; none imports anything heavy at its top.
COMMANDS = {
    "targets": "hexpath_deploy.commands.targets",
    "compile": "hexpath_deploy.commands.compile",
    "agree": "hexpath_deploy.commands.agree",
    "evaluate": "hexpath_deploy.commands.evaluate",
    "profile": "hexpath_deploy.commands.profile",
    "gate": "hexpath_deploy.commands.gate",
    "bundle": "hexpath_deploy.commands.bundle",
    "verify": "hexpath_deploy.commands.verify",
    "regions": "hexpath_deploy.commands.regions",
    "fidelity": "hexpath_deploy.commands.fidelity",
    "record": "hexpath_deploy.commands.record",
    "report": "hexpath_deploy.report.command",
    "summary": "hexpath_deploy.report.summary_command",
    "log": "hexpath_deploy.report.log_command",
}


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    modules = load(arguments)
    args = parser(modules).parse_args(arguments)
    try:
        code = int(modules[args.command].run(args))
        sys.stdout.flush()
        return code
    except DeployError as error:
        return fail(error)
    except BrokenPipeError:  # whoever read our output has seen enough, such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains while it ends
        return 141
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return fail(DiskFullError(f"no space left on the disk ({error.filename}): free some, then run again"))
    except KeyboardInterrupt:
        print("hexpath-deploy: interrupted; nothing half written is left behind", file=sys.stderr)
        return 130


def load(arguments: list[str]) -> dict[str, ModuleType]:
    """Import the named subcommand alone, or all of them for the overview."""
    named = [name for name in COMMANDS if name in arguments[:1]]
    return {name: import_module(COMMANDS[name]) for name in named or COMMANDS}


def parser(modules: dict[str, ModuleType]) -> argparse.ArgumentParser:
    """Build the parser of the given subcommands."""
    top = argparse.ArgumentParser(
        prog="hexpath-deploy", description=__doc__ and sys.modules["hexpath_deploy"].__doc__
    )
    top.add_argument("--version", action="version", version=f"hexpath-deploy {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in modules.values():
        module.add_parser(subparsers)
    return top


def fail(error: DeployError) -> int:
    """Print the error as one line on stderr and return its exit code."""
    print(f"hexpath-deploy: error: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_code
