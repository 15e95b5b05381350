"""Settings of the data side, one frozen model per stage.

The same models validate a TOML file, `--set` on the command line and the parameters of a Prefect deployment. A stage's digest names
its results, so that a change of settings never reuses results made under others.
"""

import copy
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mammo_etl import sources
from mammo_etl.schema import FORMAT_VERSION


class SettingsError(ValueError):
    """Settings that cannot be used, in one sentence."""


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused, described by attribute docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


class SourceSettings(Settings):
    """One source of films."""

    kind: str
    """Kind of source: cbis-ddsm, ddsm or mini-mias."""
    path: str
    """Folder, zip archive or object-store prefix that holds it."""

    @model_validator(mode="after")
    def _known_kind(self) -> Self:
        sources.check_kind(self.kind)
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `KIND=PATH`, the form of the command line; raises SettingsError."""
        kind, separator, path = text.partition("=")
        if not separator or not path:
            raise SettingsError(f"--source {text}: expected KIND=PATH, as in mini-mias=/data/all-mias.zip")
        return validated(cls, {"kind": kind, "path": path}, "--source")


class InventorySettings(Settings):
    """What is taken from the sources."""

    mixed_ddsm: Literal["refuse", "normal-only", "all"] = "refuse"
    """CBIS-DDSM is a subset of DDSM without a published map between their patients. Beside cbis-ddsm, abnormal ddsm cases are
    refused (the run fails), left out (normal-only), or taken nevertheless (all)."""
    max_reject_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """The run fails before publishing when more than this share of the films and findings present was rejected.
    Films that a table lists but that are not there do not count."""


class CleaningSettings(Settings):
    """From a film's grey levels to a cleaned, breast-cropped image."""

    method: Literal["skin", "otsu"] = "skin"
    """Threshold of the breast: Otsu's (1979), or one lower down that keeps fatty tissue and the skin line."""
    scale: Annotated[int, Field(ge=1, le=16)] = 8
    """The mask is found on the film reduced by this factor; films under 4,096 rows use a smaller one."""
    smooth_mm: Annotated[float, Field(ge=0, le=20)] = 2.5
    """Radius of the opening that cuts off labels and scratches, in millimetres on a film 240 mm high."""
    density_scale: Literal["cbis", "raw"] = "cbis"
    """DDSM grey levels: mapped through optical density to CBIS-DDSM's scale, or taken raw."""
    bits: Literal[8, 16] = 8
    """Depth of the cleaned films, and so of the patches."""


class PatchSettings(Settings):
    """Where patches may be cut."""

    size: Annotated[int, Field(ge=16, le=2048)] = 256
    """Height and width of a patch, pixels of the original scan."""
    stride: Annotated[int, Field(ge=1, le=2048)] = 128
    """Step of the grid over a ROI larger than a patch, pixels; never more than a patch, so that nothing is left out."""
    around: Annotated[int, Field(ge=0, le=100)] = 4
    """Patches at random places around a ROI's centre, besides the one at its centre."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Largest shift of those from the centre, as a share of the patch size."""
    min_roi: Annotated[float, Field(ge=0, le=1)] = 0.1
    """A patch counts as abnormal if it holds at least this share of the ROI, or is itself ROI to at least this share.
    Each finding keeps its best patch in any case, and patches of the grid that alone show a part of its ROI. With several findings in a patch, all are listed, and its label is that of the one of which it
    holds the larger share (within 0.01: the one with more pixels in it)."""
    normals_per_film: Annotated[int, Field(ge=0, le=10000)] = 64
    """Most places for normal patches looked for in one film."""
    normals: Literal["cases", "background"] = "cases"
    """Normal tissue comes from normal cases, or also from abnormal films away from every finding of that side and view."""
    hard_normals: Annotated[float, Field(ge=0, le=1)] = 0
    """Share of a film's normal places taken where its tissue is brightest, rather than at random: dense tissue is what lesions are mistaken for."""
    min_breast: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Least share of breast in a normal patch."""
    min_distance: Annotated[float, Field(ge=0)] = 64
    """Least distance between the centres of two normal patches of a film, pixels."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the random places; each film has its own stream, whatever the order of work."""


class PlanSettings(Settings):
    """Which patches are taken, and which patient goes where."""

    normal_share: Annotated[float, Field(gt=0, lt=1)] | Literal["all"] = 0.85
    """Share of normal patches in each split, or `all`: every candidate. Abnormal patches are dropped for it only under
    `patches`."""
    patches: Annotated[int, Field(ge=2)] | None = None
    """Patches in all, `normal_share` of them normal, or none: as many as there are abnormal ones for. Abnormal patches are then taken evenly over
    findings, the best of each first. Where places are too few of either kind, there are fewer patches, at the same share, and a warning."""
    split: Literal["patient", "official", "patch"] = "patient"
    """By patient, which adding films never changes; as CBIS-DDSM's tables say (validation is taken from their training part, and other
    sources go by patient); or by patch, as is often done: patients and overlapping patches then leak between the splits, and a model's
    figures are too good. The last is for comparison only."""
    in_both_parts: Literal["train", "test"] = "test"
    """Where the official split puts patients that CBIS-DDSM lists both for training and for testing: never to both."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of patients for validation (of the training part in the official split, of patches if these are split)."""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of patients for the test; what the official split leaves to the tables."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split and of the choice among normal patches."""

    @model_validator(mode="after")
    def _room_for_training(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on: their sum must be below 1")
        return self

    @model_validator(mode="after")
    def _share_of_a_total(self) -> Self:
        if self.patches is not None and self.normal_share == "all":
            raise ValueError("patches in all are divided by normal_share: expected a share, not all")
        return self


class NormalSettings(Settings):
    """Which normal patches are taken."""

    match_scanner: bool = False
    """Take normal patches from each scanner in proportion to its abnormal ones, so that the scanner does not tell the class. A scanner is
    source, scanner and institution; where one has too few places, no other makes up for it."""


class StoreSettings(Settings):
    """Layout of patches.zarr."""

    shard_rows: Annotated[int, Field(ge=1, le=65536)] = 1024
    """Patches in a shard; one task writes one shard."""
    zstd_level: Annotated[int, Field(ge=-5, le=22)] = 1
    """Zstandard level of each patch's chunk."""


class BuildSettings(Settings):
    """All that decides the content of a dataset run."""

    inventory: InventorySettings = InventorySettings()
    """What is taken from the sources."""
    cleaning: CleaningSettings = CleaningSettings()
    """From a film's grey levels to a cleaned image."""
    patches: PatchSettings = PatchSettings()
    """Where patches may be cut."""
    plan: PlanSettings = PlanSettings()
    """Which patches are taken, and which patient goes where."""
    normals: NormalSettings = NormalSettings()
    """Which normal patches are taken."""
    store: StoreSettings = StoreSettings()
    """Layout of patches.zarr."""


Model = TypeVar("Model", bound=BaseModel)


def digest(*parts: Any, version: int = FORMAT_VERSION) -> str:
    """Sixteen hexadecimal digits that name settings or other JSON-able values, and a format's version."""

    def plain(part: Any) -> Any:
        return part.model_dump(mode="json") if isinstance(part, BaseModel) else part

    text = json.dumps([version, *map(plain, parts)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def validated(model: type[Model], values: dict[str, Any], origin: str) -> Model:
    """Values as a settings model; `origin` names where they come from.

    Raises SettingsError naming the first wrong key and what was expected.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise SettingsError(f"{origin}: unknown setting {key}") from error
        place = f"{origin}: {key}" if key else origin
        message = first["msg"].removeprefix("Value error, ")
        given = f" (given: {first['input']!r})" if isinstance(first["input"], str | int | float) else ""
        raise SettingsError(f"{place}: {message}{given}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """A settings file as nested dictionaries; raises SettingsError if it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: the settings file could not be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not a TOML file: {error}") from error


def laid_over(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Nested values with others laid over them, key by key."""
    merged: dict[str, Any] = copy.deepcopy(base)
    for key, value in values.items():
        below = merged.get(key)
        merged[key] = laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def with_overrides(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Nested values with `stage.key=value` texts laid over them; the value is read as TOML, or as a string if it is none.

    Raises SettingsError for a text of another form.
    """
    merged: dict[str, Any] = copy.deepcopy(values)
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator:
            raise SettingsError(f"--set {text}: expected KEY=VALUE, as in patches.size=224")
        try:
            parsed = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            parsed = value
        *tables, name = key.strip().split(".")
        place = merged
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise SettingsError(f"--set {text}: {table} is a value, not a table of settings")
        place[name] = parsed
    return merged
