"""Tables: described, and back to records without loss."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from mammo_etl import schema
from mammo_etl.catalog import write_table
from mammo_etl.records import (
    REASONS,
    Abnormality,
    Finding,
    Label,
    Laterality,
    Pathology,
    Reason,
    Rejection,
    RoiKind,
    Scan,
    View,
    label_of,
)

FINDING = Finding(
    finding_id="x_1",
    image_id="x",
    source="ddsm",
    patient_id="p",
    abnormality=Abnormality.CALCIFICATION,
    pathology=Pathology.MALIGNANT,
    pathology_listed="MALIGNANT",
    label=Label.MALIGNANT_CALCIFICATION,
    roi_kind=RoiKind.OUTLINE,
    roi_outlines=("10 20 2460", "1 1 0"),
)
SCAN = Scan(
    image_id="x",
    source="ddsm",
    patient_id="p",
    laterality=Laterality.LEFT,
    view=View.CC,
    normal=False,
    path="/x",
    rows=10,
    columns=20,
    bits=12,
    pixel_um=43.5,
)


def test_every_column_and_reason_is_described_in_the_file(tmp_path: Path) -> None:
    write_table(tmp_path / "rejects.parquet", schema.to_table([], Rejection))
    read = pq.read_schema(tmp_path / "rejects.parquet")
    assert json.loads(read.metadata[b"reasons"]) == {reason.value: text for reason, text in REASONS.items()}
    assert set(REASONS) == set(Reason)
    for table in (schema.SCANS, schema.FINDINGS, schema.REJECTS, schema.CANDIDATES, schema.PATCHES):
        assert all(field.metadata[b"description"] for field in table)
        assert table.metadata[b"format_version"] == str(schema.FORMAT_VERSION).encode()


def test_records_survive_a_parquet_file(tmp_path: Path) -> None:
    write_table(tmp_path / "f.parquet", schema.to_table([FINDING], Finding))
    write_table(tmp_path / "s.parquet", schema.to_table([SCAN], Scan))
    assert schema.from_rows(pq.read_table(tmp_path / "f.parquet").to_pylist(), Finding) == [FINDING]
    assert schema.from_rows(pq.read_table(tmp_path / "s.parquet").to_pylist(), Scan) == [SCAN]


def test_labels_are_the_five_classes() -> None:
    assert [label.title for label in Label] == [
        "Normal",
        "Benign Calcification",
        "Benign Mass",
        "Malignant Calcification",
        "Malignant Mass",
    ]
    assert label_of(Abnormality.MASS, Pathology.MALIGNANT) == 4
    assert label_of(Abnormality.CALCIFICATION, Pathology.BENIGN) == 1
