"""Faults of the published data sets that phantoms can be made to carry, by name.

What goes wrong on the film itself (labels, frames, scratches) is in `mammo_etl.phantom.film_faults`. Here are the faults of files, headers and
tables: each is injected by the module that writes what it spoils, and `source_faults.csv` beside the phantoms' truth says who carries it.
"""

from collections.abc import Collection, Iterable, Iterator
from enum import StrEnum
from itertools import cycle, islice


class Fault(StrEnum):
    """A fault of CBIS-DDSM or DDSM; `FAULTS` says what each does."""

    SWAPPED = "swapped"
    SPLIT_SERIES = "split-series"
    SHARED_SERIES = "shared-series"
    RESCALED = "rescaled"
    RESCALED_CROP = "rescaled-crop"
    RESCALED_NO_CROP = "rescaled-no-crop"
    STRETCHED_MASK = "stretched-mask"
    WRONG_MASK = "wrong-mask"
    SIXTEEN_BIT_MASK = "sixteen-bit-mask"
    BLANK_HEADER = "blank-header"
    MISSING_MASK = "missing-mask"
    MISSING_FILM = "missing-film"
    TRUNCATED_FILM = "truncated-film"
    TWIN = "twin"
    BOTH_PARTS = "both-parts"
    SKIPPED_IDS = "skipped-ids"
    BLANK_CELLS = "blank-cells"
    CRLF_TABLES = "crlf-tables"
    OLD_NBIA = "old-nbia"
    NEW_NBIA = "new-nbia"
    DDSM_NA = "ddsm-na"
    API_LAYOUT = "api-layout"
    TABLE_LAYOUT = "table-layout"
    FLAT = "flat"
    UPPER_CASE = "upper-case"
    METADATA_CSV = "metadata-csv"
    DUPLICATE_INSTANCE = "duplicate-instance"
    EXTRA_FILES = "extra-files"
    LUMYSIS = "lumysis"
    DBA_ZERO = "dba-zero"
    LEAVING_CHAIN = "leaving-chain"
    OPEN_CHAIN = "open-chain"
    BROKEN_CHAIN = "broken-chain"
    MISCOUNTED = "miscounted"
    SWAPPED_SIZE = "swapped-size"
    RESTART = "restart"
    TRAILING_BYTES = "trailing-bytes"
    TRAILING_SPACES = "trailing-spaces"
    BLANK_LINE = "blank-line"
    GZIP = "gzip"


FAULTS: dict[Fault, str] = {
    Fault.SWAPPED: "CBIS-DDSM: cut-out and mask exchanged against table and description.",
    Fault.SPLIT_SERIES: "CBIS-DDSM: cut-out and mask each in a series of its own.",
    Fault.SHARED_SERIES: "CBIS-DDSM: cut-out and mask in one series, as the table has them.",
    Fault.RESCALED: "CBIS-DDSM: mask 1.149 times smaller than its film (50 against 43.5 um), cut-out of the film's scale.",
    Fault.RESCALED_CROP: "CBIS-DDSM: the same, and the cut-out as small as the mask.",
    Fault.RESCALED_NO_CROP: "CBIS-DDSM: the same without a cut-out, so that nothing proves the mask.",
    Fault.STRETCHED_MASK: "CBIS-DDSM: mask with fewer rows than its film, and as many columns.",
    Fault.WRONG_MASK: "CBIS-DDSM: mask of the film's size with the lesion at the other end of the film.",
    Fault.SIXTEEN_BIT_MASK: "CBIS-DDSM: mask of 16 bits, with values 0 and 65535.",
    Fault.BLANK_HEADER: "CBIS-DDSM: mask with another PatientID and without SeriesDescription and Laterality.",
    Fault.MISSING_MASK: "CBIS-DDSM: the mask's file is not there.",
    Fault.MISSING_FILM: "CBIS-DDSM: the film's file is not there.",
    Fault.TRUNCATED_FILM: "CBIS-DDSM: the film's file ends early.",
    Fault.TWIN: "CBIS-DDSM: sides and views filmed once as Calc and once as Mass.",
    Fault.BOTH_PARTS: "CBIS-DDSM: the same, one in the training and one in the test tables.",
    Fault.SKIPPED_IDS: "CBIS-DDSM: abnormality ids that begin with 2.",
    Fault.BLANK_CELLS: "CBIS-DDSM: no shape, margins, type and distribution, density 0, subtlety 0.",
    Fault.CRLF_TABLES: "CBIS-DDSM: tables with carriage returns, also inside their quotes.",
    Fault.OLD_NBIA: "CBIS-DDSM: folders of NBIA's first downloader.",
    Fault.NEW_NBIA: "CBIS-DDSM: folders of NBIA's newer downloaders.",
    Fault.DDSM_NA: "CBIS-DDSM: folders of NBIA's latest downloader, with DDSM-NA in the study's.",
    Fault.API_LAYOUT: "CBIS-DDSM: PatientID/StudyInstanceUID/SeriesInstanceUID/1-1.dcm.",
    Fault.TABLE_LAYOUT: "CBIS-DDSM: folders and names as the tables write them.",
    Fault.FLAT: "CBIS-DDSM: all files in one folder, named by their SOP instance UIDs.",
    Fault.UPPER_CASE: "CBIS-DDSM: names that end in .DCM.",
    Fault.METADATA_CSV: "CBIS-DDSM: NBIA's metadata.csv beside the folders.",
    Fault.DUPLICATE_INSTANCE: "CBIS-DDSM: every SOP instance a second time in other folders.",
    Fault.EXTRA_FILES: "CBIS-DDSM: thumbnails, texts, hidden files and a DICOM image that no table names.",
    Fault.LUMYSIS: "DDSM: all cases by the scanner LUMISYS, written LUMYSIS.",
    Fault.DBA_ZERO: "DDSM: all cases by the scanner DBA, one pixel in a hundred of grey level 0.",
    Fault.LEAVING_CHAIN: "DDSM: outlines that reach over the film's edge.",
    Fault.OPEN_CHAIN: "DDSM: outlines that do not close.",
    Fault.BROKEN_CHAIN: "DDSM: lesions with a second outline that cannot be followed.",
    Fault.MISCOUNTED: "DDSM: TOTAL_OUTLINES one too high.",
    Fault.SWAPPED_SIZE: "DDSM: LJPEG written with height and width exchanged.",
    Fault.RESTART: "DDSM: LJPEG with restart markers.",
    Fault.TRAILING_BYTES: "DDSM: LJPEG with bytes after its end.",
    Fault.TRAILING_SPACES: "DDSM: spaces at the end of each line of .ics and .OVERLAY.",
    Fault.BLANK_LINE: "DDSM: .ics that begin with an empty line and state no age.",
    Fault.GZIP: "DDSM: all files gzipped, the overlays of MLO views without .gz at the end of their names.",
}


def parse_faults(names: Iterable[str]) -> frozenset[Fault]:
    """Faults by name; `all` stands for every one. Raises ValueError, with the names that there are, for any other."""
    chosen: set[Fault] = set()
    for name in names:
        if name == "all":
            chosen.update(Fault)
        elif name in list(Fault):
            chosen.add(Fault(name))
        else:
            raise ValueError(f"unknown fault {name!r}: expected all, or some of {', '.join(Fault)}")
    return frozenset(chosen)


def deal(
    kinds: Iterable[Fault], wanted: Collection[Fault], start: int, *, one_whole: bool = False
) -> Iterator[Fault | None]:
    """The wanted faults of these kinds in turn, endlessly, beginning with number `start` of them; None where there is none.

    One thing (finding, film, case) carries one fault of a kind at most. With `one_whole`, one in each round is left whole.
    """
    chosen: list[Fault | None] = [fault for fault in kinds if fault in wanted]
    if one_whole or not chosen:
        chosen.append(None)
    return islice(cycle(chosen), start % len(chosen), None)
