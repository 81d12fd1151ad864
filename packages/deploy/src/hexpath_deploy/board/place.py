"""Our folder on the board: files by content, a folder for each run, results that come back whole."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hexpath_deploy.board.link import Link, failed
from hexpath_deploy.board.probe import Facts
from hexpath_deploy.board.process import Done
from hexpath_deploy.errors import BoardRunError, BoardSpaceError, BoardTimeoutError, DeployError
from hexpath_deploy.files import atomic_folder, sha256_file

DEFAULT = "/tmp/hexpath"
DEFAULT_ANDROID = "/data/local/tmp/hexpath"
SHORT_S = 120.0
SLACK_S = 30.0
# How `timeout` on the board ends: by itself, by SIGTERM, by SIGKILL when that did not help.
STOPPED = (124, 143, 137)


@dataclass(frozen=True, kw_only=True)
class Place:
    """`folder` on the board is ours: `files/` holds what was pushed, by SHA-256, `runs/` what is running."""

    link: Link
    facts: Facts
    folder: str

    def hashed(self, source: Path) -> str:
        """Return where a file lies on the board: its name says what is in it."""
        return f"{self.folder}/files/{sha256_file(source)[:32]}{source.suffix}"

    def push(self, source: Path) -> str:
        """Bring a file to the board unless it is there already; returns its path there.

        It takes its name once what arrived is what was sent; without sha256sum there, once its size is.

        Raises:
            BoardSpaceError: the board is full. BoardRunError: what arrived is not what was sent.
        """
        target = self.hashed(source)
        tool = "sha256sum" if self.facts.tool("sha256sum") else "wc -c"
        right = sha256_file(source) if tool == "sha256sum" else str(source.stat().st_size)
        check = f"mkdir -p {self.folder}/files && {{ [ ! -f {target} ] || {tool} < {target}; }}"
        if self.must(check, what="looking for a file").out.split()[:1] != [right]:
            partial = f"{target}.partial"
            self.link.push(source, partial)
            move = f'set -- $({tool} < {partial}); if [ "$1" = {right} ]; then mv {partial} {target}; '
            if self.link.shell(f"{move} else rm -f {partial}; false; fi", limit_s=SHORT_S).code:
                raise BoardRunError(f"{self.link.name}: {source} arrived damaged: run the same again")
        return target

    @contextlib.contextmanager
    def run_folder(self, key: str, *, links: Mapping[str, str]) -> Iterator[str]:
        """Yield a folder on the board with pushed files under the names of `links`; removed in the end.

        What a killed run left under the same key is removed first.
        """
        folder = f"{self.folder}/runs/{key}"
        lines = [f"rm -rf {folder}", f"mkdir -p {folder}"]
        lines += [f"ln -s {source} {folder}/{shlex.quote(name)}" for name, source in links.items()]
        self.must(" && ".join(lines), what="making a folder")
        try:
            yield folder
        finally:
            with contextlib.suppress(DeployError):
                self.link.shell(f"rm -rf {folder}", limit_s=SHORT_S)

    def must(self, line: str, *, what: str) -> Done:
        """Run a short line that has to work."""
        done = self.link.shell(line, limit_s=SHORT_S)
        if done.code:
            raise failed(f"{self.link.name}: {what}", done, self.link.name)
        return done

    def execute(self, line: str, *, limit_s: float, what: str) -> Done:
        """Run the real work, and say in one line how it failed.

        Raises:
            BoardTimeoutError: it took longer than the limit. BoardSpaceError: the board is full.
            BoardRunError: it failed, or was killed.
        """
        since = time.monotonic()
        done = self.link.shell(line, limit_s=limit_s + SLACK_S)
        if done.code in STOPPED and time.monotonic() - since >= limit_s:
            raise BoardTimeoutError(
                f"{what} on {self.link.name} took longer than {limit_s:.0f} s and was stopped there: "
                "raise --time-limit, or ask for fewer iterations"
            )
        if done.code:
            raise self.broken(done, what=what)
        return done

    def broken(self, done: Done, *, what: str) -> BoardRunError | BoardSpaceError:
        """Return what the failure of the real work means."""
        if re.search("No space left", done.err + done.out):
            return BoardSpaceError(f"no space left on {self.link.name} while {what} ran: free some")
        how = f"was killed by signal {done.code - 128}" if done.code > 128 else f"ended with code {done.code}"
        return BoardRunError(f"{what} on {self.link.name} {how}: {done.said or 'it said nothing'}")

    def pull(self, source: str, target: Path) -> None:
        """Bring the files of a folder of the board here, all of them or none."""
        with atomic_folder(target) as partial:
            self.link.pull_folder(source, partial)
