"""The look ledger: chained, written once, resumed after a crash, refused when damaged."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from experiments_dagster.storage import atomic
from experiments_dagster.storage import ledger as ledger_module
from experiments_dagster.storage.atomic import canonical_json
from experiments_dagster.storage.errors import BusyError, DataDamagedError, StorageError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.ledger import Ledger


def ledger(root):
    return Ledger(Layout(root), "trial", 1).refresh()


def take(root, cutoff=1):
    with (book := ledger(root)).hold():
        if book.plan is None:
            book.freeze_plan({"plan_hash": "abc"})
        reserved = book.reserve({"cutoff": cutoff})
        book.record({"look": reserved["look"], "cutoff": reserved["cutoff"]})
    return book


@pytest.fixture
def three(tmp_path):
    for cutoff in (1, 2, 3):
        take(tmp_path, cutoff)
    return tmp_path


def test_looks_are_numbered_chained_and_read_back(three):
    book = ledger(three)
    assert [(look["look"], look["cutoff"]) for look in book.looks] == [(1, 1), (2, 2), (3, 3)]
    assert (book.plan, book.reserved) == ({"plan_hash": "abc"}, None)
    assert len(list(book.folder.glob("*.json"))) == 7


def test_a_reservation_is_resumed_with_its_own_cut_off(tmp_path):
    with (dead := ledger(tmp_path)).hold():
        dead.freeze_plan({})
        dead.reserve({"cutoff": 5})
    alive = take(tmp_path, cutoff=9)
    assert [look["cutoff"] for look in alive.looks] == [5]
    assert len(list(alive.folder.glob("*.reserved.json"))) == 1


def test_a_look_that_was_not_reserved_cannot_be_recorded(tmp_path):
    book = ledger(tmp_path)
    book.freeze_plan({})
    with pytest.raises(StorageError, match="look 1 was not reserved"):
        book.record({"look": 1})
    book.reserve({"cutoff": 1})
    with pytest.raises(StorageError, match="look 2 was not reserved"):
        book.record({"look": 2})


def test_the_holder_is_named_to_whoever_comes_second(three):
    with (
        ledger(three).hold(),
        pytest.raises(BusyError, match=f"trial: look 4 is being taken by process {os.getpid()}"),
        ledger(three).hold(),
    ):
        pass
    with ledger(three).hold():
        pass


def test_without_the_lock_two_reservations_of_one_look_have_one_winner(three):
    books = [ledger(three) for _ in range(8)]
    start, won, lost = threading.Barrier(8), [], []

    def race(book):
        start.wait()
        try:
            won.append(book.reserve({"cutoff": 4}))
        except BusyError:
            lost.append(book)

    threads = [threading.Thread(target=race, args=(book,)) for book in books]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert ledger(three).reserved["look"] == 4


RACER = """
import sys
from pathlib import Path
from experiments_dagster.storage.errors import BusyError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.ledger import Ledger
won = 0
while won < 20:
    book = Ledger(Layout(Path(sys.argv[1])), "trial", 1)
    try:
        with book.hold():
            if book.plan is None:
                book.freeze_plan({})
            reserved = book.reserve({"cutoff": 1})
            book.record({"look": reserved["look"]})
            won += 1
    except BusyError:
        pass
"""


def test_two_processes_over_many_rounds_never_share_a_slot(tmp_path):
    command = [sys.executable, "-c", RACER, str(tmp_path)]
    children = [subprocess.Popen(command) for _ in range(2)]
    assert [child.wait(timeout=60) for child in children] == [0, 0]
    assert [look["look"] for look in ledger(tmp_path).looks] == list(range(1, 41))


def files(root):
    return sorted(ledger(root).folder.glob("*.json"))


@pytest.mark.parametrize("fault", ["deleted", "cut", "empty", "edited"])
@pytest.mark.parametrize(
    "name",
    ["000000.plan", "000001.reserved", "000002.recorded", "000003.reserved", "000003.recorded"],
)
def test_a_damaged_file_is_refused(three, name, fault):
    path = ledger(three).folder / f"{name}.json"
    content = path.read_text()
    if fault == "deleted":
        path.unlink()
    else:
        edited = content.replace('"previous": "', '"extra": 1, "previous": "', 1)
        path.write_text({"cut": content[:-20], "empty": "", "edited": edited}[fault])
    with pytest.raises(DataDamagedError, match="restore the ledger from your backup"):
        ledger(three)
    with pytest.raises(DataDamagedError):
        take(three)


def test_losing_the_last_look_with_its_reservation_is_noticed_by_the_twin(three):
    for path in files(three)[-2:]:
        path.unlink()
    with pytest.raises(DataDamagedError, match="3 looks were recorded, 2 are here"):
        ledger(three)


def test_losing_the_whole_ledger_is_noticed(three):
    shutil.rmtree(ledger(three).folder)
    with pytest.raises(DataDamagedError, match="3 looks were recorded, 0 are here"):
        ledger(three)


def test_a_twin_missing_in_the_middle_does_not_blind_the_check(three):
    (ledger(three).twins / "000001.json").unlink()
    (ledger(three).folder / "000003.recorded.json").unlink()
    with pytest.raises(DataDamagedError, match="3 looks were recorded, 2 are here"):
        ledger(three)


def test_a_run_that_died_before_the_twin_has_it_written_by_the_next(three):
    twin = ledger(three).twins / "000003.json"
    content = twin.read_bytes()
    twin.unlink()
    with ledger(three).hold():
        assert twin.read_bytes() == content
    (ledger(three).folder / "000003.recorded.json").unlink()
    with pytest.raises(DataDamagedError):
        ledger(three)


@pytest.mark.parametrize("content", ["", "{}", "[1]"])
def test_a_damaged_twin_is_refused_by_name(three, content):
    twin = ledger(three).twins / "000003.json"
    twin.write_text(content)
    with pytest.raises(DataDamagedError, match="twin"):
        ledger(three)


def test_a_newer_format_is_refused_with_a_hint(three):
    path = files(three)[-1]
    path.write_text(path.read_text().replace('"format": 1', '"format": 2', 1))
    with pytest.raises(StorageError, match="format 2 is newer than this program reads"):
        ledger(three)


def test_phases_have_ledgers_of_their_own(three):
    assert Ledger(Layout(three), "trial", 2).refresh().looks == []


# reading again


def state(book):
    return book.plan, book.looks, book.reserved, book.head, book.heads


def step(book, action):
    """One thing that a run may do with a ledger it has open; another may have won before it."""
    try:
        if action == "refresh":
            book.refresh()
        elif book.plan is None:
            book.freeze_plan({"plan_hash": "abc"})
        elif action == "reserve":
            book.reserve({"cutoff": 1})
        elif action == "record" and book.reserved is not None:
            book.record({"look": book.reserved["look"], "cutoff": 1})
        elif action == "take":
            with book.hold():
                reserved = book.reserve({"cutoff": 2})
                book.record({"look": reserved["look"], "cutoff": 2})
    except BusyError:
        pass


STEPS = st.tuples(st.integers(0, 1), st.sampled_from(("refresh", "reserve", "record", "take")))


@pytest.mark.parametrize("settled_after", [0, atomic.SETTLED_NS])
@given(st.lists(STEPS, max_size=12))
def test_whatever_two_ledgers_do_each_sees_what_a_fresh_one_sees(settled_after, steps):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(atomic, "SETTLED_NS", settled_after)
        root = Path(folder)
        books = ledger(root), ledger(root)
        for who, action in steps:
            step(books[who], action)
            if action == "refresh":
                assert state(books[who]) == state(ledger(root))
        for book in books:
            assert state(book.refresh()) == state(ledger(root))


def test_a_ledger_that_is_read_while_another_process_writes_sees_the_same(tmp_path):
    book = ledger(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path)])
    seen = []
    while child.poll() is None:
        seen.append(len(book.refresh().looks))
    assert child.returncode == 0
    assert seen == sorted(seen)
    assert state(book.refresh()) == state(ledger(tmp_path))
    assert len(book.looks) == 20


def test_nothing_is_read_again_when_nothing_changed(three, monkeypatch):
    monkeypatch.setattr(atomic, "SETTLED_NS", 0)
    book, read = ledger(three), []
    real = ledger_module._read
    monkeypatch.setattr(ledger_module, "_read", lambda path: read.append(path) or real(path))
    with book.hold():
        assert read == []
    looks = book.looks
    take(three, cutoff=4)
    read.clear()
    assert book.refresh().looks is looks
    assert [Path(path).name for path in read] == ["000004.reserved.json", "000004.recorded.json"]


def test_a_file_touched_just_now_is_told_by_its_bytes(three, monkeypatch):
    monkeypatch.setattr(atomic, "SETTLED_NS", 3_600_000_000_000)
    book = ledger(three)
    before = state(book)
    path = files(three)[2]
    path.touch()
    assert state(book.refresh()) == before
    path.write_text(path.read_text().replace('"cutoff": 1', '"cutoff": 7'))
    with pytest.raises(DataDamagedError, match="does not follow"):
        book.refresh()


@pytest.mark.parametrize("settled_after", [0, atomic.SETTLED_NS])
@pytest.mark.parametrize(
    "fault", ["deleted", "cut", "empty", "edited", "swapped", "edited in secret"]
)
@pytest.mark.parametrize("name", ["000000.plan", "000001.recorded", "000003.reserved"])
def test_damage_is_noticed_by_a_ledger_that_had_read_the_file(
    three, monkeypatch, name, fault, settled_after
):
    monkeypatch.setattr(atomic, "SETTLED_NS", settled_after)
    book = ledger(three)
    path, other = book.folder / f"{name}.json", book.folder / "000002.recorded.json"
    content, stat = path.read_text(), path.stat()
    if fault == "deleted":
        path.unlink()
    elif fault == "swapped":
        path.rename(book.folder / "kept")
        other.rename(path)
        (book.folder / "kept").rename(other)
    else:
        same_size = content.replace('"previous"', '"Previous"', 1)
        changed = {"cut": content[:-20], "empty": "", "edited": content + " "}
        path.write_text(changed.get(fault, same_size))
        if fault == "edited in secret":
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            assert (path.stat().st_size, path.stat().st_mtime_ns) == (
                len(content),
                stat.st_mtime_ns,
            )
    for _ in range(2):
        with pytest.raises(DataDamagedError, match="restore the ledger from your backup"):
            book.refresh()
    with pytest.raises(DataDamagedError), book.hold():
        pass


def test_a_lost_end_is_noticed_by_a_ledger_that_had_read_it(three):
    book = ledger(three)
    for path in files(three)[-2:]:
        path.unlink()
    with pytest.raises(DataDamagedError, match="3 looks were recorded, 2 are here"):
        book.refresh()


def test_a_twin_that_is_changed_later_is_noticed(three):
    book = ledger(three)
    twin = book.twins / "000003.json"
    twin.write_text(twin.read_text().replace(book.head, "0" * 64))
    with pytest.raises(DataDamagedError, match="look 3 is not the one shown"):
        book.refresh()


def test_files_restored_from_a_backup_are_whole_again(three):
    book = ledger(three)
    before, backup = state(book), three / "backup"
    shutil.copytree(book.folder, backup)
    shutil.rmtree(book.folder)
    with pytest.raises(DataDamagedError):
        book.refresh()
    shutil.copytree(backup, book.folder)
    assert state(book.refresh()) == before


@pytest.mark.parametrize("kind", ["other", None])
def test_a_file_of_an_unknown_kind_is_refused(three, kind):
    book = ledger(three)
    document = {"format": 1, "kind": kind, "previous": book.head, "look": {}}
    (book.folder / "000004.other.json").write_bytes(canonical_json(document))
    with pytest.raises(DataDamagedError, match="does not follow"):
        book.refresh()


@given(st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False) | st.integers()))
def test_what_is_written_is_read_back_to_the_last_digit(document):
    assert from_json(canonical_json(document), allow_inf_nan=False) == document
