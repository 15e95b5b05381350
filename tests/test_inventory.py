"""The inventory: what is listed, and what cannot be."""

import os
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from mammo_etl.files import SourceFileError, list_files, name_of, read_bytes, size_of, stamp_of
from mammo_etl.inventory import (
    InventoryError,
    assemble,
    check_films,
    check_rejects,
    combine,
    list_sources,
    read_headers,
)
from mammo_etl.records import Reason, Rejection
from mammo_etl.settings import InventorySettings, SourceSettings
from mammo_etl.sources import Inventory, kinds, source_of
from mammo_etl.summary import empty_sources


def inventory_of(kind: str, *paths: Path | str) -> Inventory:
    (files,) = list_sources([SourceSettings(kind=kind, path=str(path)) for path in paths])
    return assemble(files, dict(read_headers(kind, files.with_headers)))


def without_places(inventory: Inventory) -> list[Any]:
    """Films and findings apart from where their files lie."""
    return [
        *(replace(scan, path="") for scan in inventory.scans),
        *(replace(finding, roi_path="", crop_path="") for finding in inventory.findings),
    ]


@pytest.fixture
def memory() -> Iterator[Any]:
    """An object store, as far as fsspec is concerned."""
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/", recursive=True)


@pytest.mark.parametrize("kind", ["cbis-ddsm", "ddsm"])
def test_a_folder_a_zip_and_an_object_store_hold_the_same(
    kind: str, phantoms: Path, tmp_path: Path, memory: Any
) -> None:
    folder = phantoms / kind
    archive = shutil.make_archive(str(tmp_path / "films"), "zip", folder)
    memory.put(str(folder), f"/bucket/{kind}", recursive=True)
    expected = inventory_of(kind, folder)
    assert expected.scans
    assert expected.findings
    assert not expected.rejects
    assert without_places(inventory_of(kind, archive)) == without_places(expected)
    assert without_places(inventory_of(kind, f"memory://bucket/{kind}")) == without_places(expected)


def test_a_source_in_two_places_is_one(phantoms: Path, tmp_path: Path) -> None:
    for part in ("normals", "cancers"):
        shutil.copytree(phantoms / "ddsm" / part, tmp_path / part)
    together = inventory_of("ddsm", tmp_path / "normals", tmp_path / "cancers")
    assert without_places(together) == without_places(inventory_of("ddsm", phantoms / "ddsm"))


def test_phantoms_are_known_as_such(phantoms: Path, tmp_path: Path) -> None:
    (marked,) = list_sources([SourceSettings(kind="ddsm", path=str(phantoms / "ddsm"))])
    (plain,) = list_sources([SourceSettings(kind="ddsm", path=str(tmp_path))])
    assert marked.phantom
    assert not plain.phantom


def test_a_folder_that_cannot_be_listed_is_rejected_and_the_rest_read(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(phantoms / "ddsm", tmp_path / "ddsm")
    closed = next(path.parent for path in sorted((tmp_path / "ddsm").rglob("*.ics")))
    scandir = os.scandir

    def guarded(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    inventory = inventory_of("ddsm", tmp_path / "ddsm")
    (row,) = inventory.rejects
    assert (row.code, row.path) == (Reason.UNREADABLE_FOLDER, str(closed))
    assert "Permission denied" in row.message
    assert len(inventory.scans) == len(inventory_of("ddsm", phantoms / "ddsm").scans) - 4


def test_a_damaged_zip_member_is_one_rejected_file(phantoms: Path, tmp_path: Path) -> None:
    archive = tmp_path / "films.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(next(iter(sorted((phantoms / "ddsm").rglob("*.LJPEG")))), "film.LJPEG")
    content = bytearray(archive.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50] = bytes(50)
    archive.write_bytes(content)
    (url,) = list_files(str(archive), "ddsm").files
    with pytest.raises(SourceFileError) as raised:
        read_bytes(url)
    assert raised.value.code == Reason.UNREADABLE_FILE


def test_files_that_are_gone() -> None:
    with pytest.raises(SourceFileError, match="could not be read"):
        read_bytes("/nowhere/film.dcm")
    with pytest.raises(SourceFileError, match="could not be read"):
        size_of("/nowhere/film.dcm")
    assert stamp_of("/nowhere/film.dcm") is None
    with pytest.raises(FileNotFoundError, match="nothing there"):
        list_files("memory://nowhere", "ddsm")


def test_a_stamp_tells_that_a_file_is_the_same(tmp_path: Path) -> None:
    film = tmp_path / "a.dcm"
    film.write_bytes(b"film")
    first = stamp_of(str(film))
    film.read_bytes()
    assert stamp_of(str(film)) == first is not None
    times = film.stat()
    film.write_bytes(b"FILM")
    os.utime(film, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stamp_of(str(film)) != first
    assert stamp_of(str(shutil.copy2(film, tmp_path / "b.dcm"))) != stamp_of(str(film))


def test_an_archive_s_members_have_its_stamp(tmp_path: Path) -> None:
    archive = tmp_path / "films.zip"
    for content in ("a", "b"):
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("mdb001.pgm", content)
        listing = list_files(str(archive), "mini-mias")
        assert listing.stamps == (stamp_of(str(archive)),)
        assert stamp_of(listing.files[0]) == stamp_of(str(archive)) is not None


def test_a_source_has_a_stamp_if_all_its_files_have(tmp_path: Path, memory: Any) -> None:
    (tmp_path / "a.dcm").write_bytes(b"film")
    local = SourceSettings(kind="ddsm", path=str(tmp_path))
    (first,) = list_sources([local])
    assert list_sources([local]) == [first]
    assert first.stamp
    (tmp_path / "a.dcm").rename(tmp_path / "b.dcm")
    assert list_sources([local])[0].stamp not in ("", first.stamp)
    memory.pipe("/films/a.dcm", b"film")
    (both,) = list_sources([local, SourceSettings(kind="ddsm", path="memory://films")])
    assert len(both.files) == 2
    assert both.stamp == ""


def test_names_without_folders_and_archives() -> None:
    assert name_of("zip://a/mdb001.pgm::/data/all.zip") == "mdb001.pgm"
    assert name_of("/data/x/1-1.dcm") == "1-1.dcm"


def test_only_faults_of_the_data_present_count_against_the_share() -> None:
    def rows(code: Reason, count: int) -> list[Rejection]:
        return [Rejection(stage="inventory", code=code, message="x")] * count

    settings = InventorySettings(max_reject_share=0.2)
    check_rejects(80, rows(Reason.UNREADABLE_FILE, 20) + rows(Reason.MISSING_FILES, 500), settings)
    with pytest.raises(InventoryError, match=r"21 of 101 films and findings were rejected \(21%\)"):
        check_rejects(80, rows(Reason.UNREADABLE_FILE, 21), settings)


def test_a_source_without_its_files_is_told_with_its_place(tmp_path: Path) -> None:
    sources = [SourceSettings(kind=kind, path=str(tmp_path)) for kind in ("ddsm", "mini-mias")]
    inventory = combine({kind: inventory_of(kind, tmp_path) for kind in ("ddsm", "mini-mias")}, InventorySettings())
    first, second = empty_sources(inventory, sources)
    assert first == (
        f"source ddsm={tmp_path}: No file of a DDSM case is here: expected names as C-0029-1.ics and C_0029_1.LEFT_CC.LJPEG."
    )
    assert second.startswith(f"source mini-mias={tmp_path}: There is no .pgm file here")
    with pytest.raises(InventoryError, match=r"ddsm: No file of a DDSM case is here.*mini-mias: There is no .pgm file"):
        check_films(inventory)


def test_the_kinds_of_source_are_the_modules() -> None:
    assert kinds() == ["cbis-ddsm", "ddsm", "mini-mias"]
    for kind in kinds():
        for function in ("wants", "read_header", "assemble"):
            assert callable(getattr(source_of(kind), function))
