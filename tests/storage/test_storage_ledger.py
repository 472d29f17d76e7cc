"""The look ledger: chained, written once, resumed after a crash, refused when damaged."""

import os
import shutil
import subprocess
import sys
import threading

import pytest

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
