"""The files of a ledger -> the checks that look at bytes: the seal, the write-ahead log, the pages, the schema."""

import fcntl
import re
import sqlite3

from farthing.ledger.audit.locate import place_of_byte
from farthing.ledger.audit.pages import Log, Malformed, Pages
from farthing.ledger.audit.reader import Files
from farthing.ledger.audit.report import Check, Finding
from farthing.ledger.audit.schema import APPLICATION_ID, DDL, PAGE_BYTES, VERSION
from farthing.ledger.audit.seal import Damage, compare, read_seal
from farthing.ledger.audit.structure import stray_bytes
from farthing.ledger.audit.wal import WalReport, check_wal

_INTEGRITY_LINES = 20


def check_seal(files: Files) -> tuple[Check, tuple[int, str] | None]:
    """(the answer, the head that was sealed). Every byte that changed since is found, whatever it means."""
    check = Check("seal", "Are the ledger's files, to the byte, as the last process that wrote them left them?")
    if not files.seal.is_file():
        check.not_checkable = (
            f"there is no {files.seal.name}: the ledger is in use, or its last process was killed; the next clean end of an "
            "attempt writes one. Until then the pages themselves are checked"
        )
        return check, None
    seal, wrong = read_seal(files.seal)
    if seal is None:
        check.found(Finding(f"the seal is not whole: {wrong}", file=files.seal.name, restore="restore it from a copy"))
        return check, None
    try:
        sealed, head = seal["files"], (int(seal["head_seq"]), str(seal["head_hash"]))
        for path in (files.sqlite, files.mirror):
            if path.name not in sealed or not path.is_file():
                gone = "is not there" if path.name in sealed else "was not sealed"
                check.found(Finding(f"{path.name} {gone}", file=path.name, restore="restore it from a copy"))
                continue
            for damage in compare(path, sealed[path.name]):
                check.found(_finding(files, damage))
    except (KeyError, ValueError, TypeError) as error:
        check.found(Finding(f"the seal cannot be read: {type(error).__name__}: {error}", file=files.seal.name))
        return check, None
    if files.has_log:
        what = "a write-ahead log that is not empty lies beside a sealed ledger: something else than farthing wrote to it"
        check.found(Finding(what, file=files.wal.name))
    check.evidence = f"sealed at {seal.get('at')} with entry {head[0]}"
    return check, head


def _finding(files: Files, damage: Damage) -> Finding:
    entry, column, where = None, None, "a line"
    if damage.file == files.sqlite.name:
        entry, column, where = place_of_byte(files.sqlite, damage.offset, damage.was)
    elif damage.was is not None:
        where = f"line {_line_of(files, damage.offset)}"
    if damage.was is None:
        what, restore = f"{damage.length} bytes here are not as sealed, in {where}", "restore the file from a copy"
    else:
        what = f"it is 0x{damage.now or 0:02x}, was 0x{damage.was:02x}, in {where}"
        restore = f"printf '\\x{damage.was:02x}' | dd of={damage.file} bs=1 seek={damage.offset} conv=notrunc"
        restore = f"the seal proves the old byte; put it back: {restore}"
    columns = (column,) if column else ()
    return Finding(what, entry, columns, damage.file, damage.offset, damage.length, restore)


def _line_of(files: Files, offset: int) -> int:
    line, position = 1, 0
    with files.mirror.open("rb") as file:
        while position < offset and (part := file.read(min(1 << 20, offset - position))):
            line += part.count(b"\n")
            position += len(part)
    return line


def check_log(files: Files) -> tuple[Check, WalReport]:
    """The write-ahead log, of which SQLite drops all behind a wrong sum without a word."""
    check = Check("log", "Is every frame of the write-ahead log as it was written?")
    report = check_wal(files.wal)
    for offset, length, what in report.problems:
        restore = f"entries that were in it are in {files.mirror.name}; see the mirror check"
        check.found(Finding(what, file=files.wal.name, offset=offset, length=length, restore=restore))
    check.evidence = f"{report.num_frames} frames" if report.num_frames else "the log is empty: all is in the file itself"
    if report.stale_bytes:
        check.evidence += f"; {report.stale_bytes} bytes behind them are remains that SQLite never reads"
    return check, report


def check_pages(files: Files, log: WalReport, num_entries: int, is_sealed: bool, db: sqlite3.Connection) -> Check:
    """The pages themselves, byte by byte, where no seal vouches for them."""
    check = Check("pages", "Does the SQLite file hold nothing but the book: no stray byte, no wrong link, its own tables?")
    _schema(check, files, db)
    if is_sealed:
        check.evidence = "vouched for by the seal"
        return check
    if in_use(files):
        check.not_checkable = "a process is writing the ledger now; its pages change while one looks at them"
        return check
    try:
        with files.sqlite.open("rb") as file:
            if log.pages:
                with files.wal.open("rb") as wal:
                    _stray(check, files, Pages(file, log=Log(wal, log.pages, log.num_pages)), num_entries)
                check.evidence = (
                    f"{len(log.pages)} of the pages as the log has them; their older forms in the file do not count"
                )
            else:
                _stray(check, files, Pages(file), num_entries)
    except Malformed as error:
        check.found(Finding(str(error), file=files.sqlite.name, offset=0, length=100))
    _integrity(check, files, db)
    if not check.evidence:
        check.evidence = (
            f"{files.sqlite.stat().st_size} bytes accounted for; only a seal proves the SQLite release in the header"
        )
    return check


def in_use(files: Files) -> bool:
    """Whether the process of a run holds its directory's lock."""
    lock = files.folder / "lock"
    if not lock.is_file():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _stray(check: Check, files: Files, pages: Pages, num_entries: int) -> None:
    remains: list[tuple[int, int, str]] = []
    for offset, length, what in stray_bytes(pages, num_entries, remains):
        restore = "the entries stand if their chain does; restore the file from a copy, or from the mirror"
        check.found(Finding(what, file=files.sqlite.name, offset=offset, length=length, restore=restore))
    if remains:
        offset, length, what = remains[0]
        check.not_checkable = (
            f"{len(remains)} places in unused space hold something, the first at byte {offset} ({what}): SQLite's remains, "
            "or a changed byte; they carry no figure, and only a seal can tell"
        )


def _integrity(check: Check, files: Files, db: sqlite3.Connection) -> None:
    try:
        for (line,) in db.execute(f"PRAGMA integrity_check({_INTEGRITY_LINES})"):
            if line != "ok":
                check.found(Finding(f"SQLite's own check: {line}", file=files.sqlite.name))
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        check.found(Finding(f"SQLite's own check stops: {error}"))


def _schema(check: Check, files: Files, db: sqlite3.Connection) -> None:
    try:
        rows = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        stored = {_spaced(f"{kind} {name} of {table}: {sql or ''}") for kind, name, table, sql in rows}
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        check.found(Finding(f"the schema cannot be read: {error}"))
        return
    expected = {_spaced(f"{kind} {name} of {table}: {sql}") for kind, name, table, sql in DDL}
    name = files.sqlite.name
    for sql in sorted(stored - expected):
        check.found(Finding(f"the file holds what no ledger holds: {sql[:300]}", file=name, offset=0, length=PAGE_BYTES))
    for sql in sorted(expected - stored):
        check.found(Finding(f"the file lacks what every ledger holds: {sql[:300]}", file=name, offset=0, length=PAGE_BYTES))
    for what, offset, found, right in (
        ("application id", 68, application, APPLICATION_ID),
        ("user version", 60, version, VERSION),
    ):
        if found != right:
            check.found(Finding(f"the file header's {what} is {found:#x}, not {right:#x}", file=name, offset=offset, length=4))


def _spaced(sql: str) -> str:
    return re.sub(r"\s+", " ", sql).replace("( ", "(").strip()
