"""Settings: refused where wrong, named where used."""

from pathlib import Path

import pytest

from flows.settings import load_settings
from mammo_etl.presets import preset
from mammo_etl.settings import (
    BuildSettings,
    CleaningSettings,
    PatchSettings,
    SettingsError,
    SourceSettings,
    digest,
    read_toml,
    validated,
    with_overrides,
)


def test_a_toml_file_and_overrides_are_laid_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('[patches]\nsize = 128\nstride = 64\n[plan]\nnormal_share = "all"\n[cluster]\nworkers = 3\n')
    job = load_settings(file, ["patches.stride=32", "cleaning.density_scale=raw", "training.epochs=2"])
    assert (job.patches.size, job.patches.stride) == (128, 32)
    assert job.plan.normal_share == "all"
    assert job.cleaning.density_scale == "raw"
    assert job.cluster.workers == 3
    assert job.training.epochs == 2
    assert job.build == BuildSettings(patches=job.patches, plan=job.plan, cleaning=job.cleaning)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["patches.sise=3"], "unknown setting patches.sise"),
        (["patch.size=256"], "unknown setting patch"),
        (["patches.size=3"], "patches.size: Input should be greater than or equal to 16 (given: 3)"),
        (["patches.size=big"], "patches.size"),
        (["plan.validation=0.6", "plan.test=0.5"], "leave nothing to train on"),
        (["plan.patches=100", "plan.normal_share=all"], "patches in all are divided by normal_share: expected a share"),
        (["plan.patches=1"], "plan.patches: Input should be greater than or equal to 2"),
        (["patches"], "expected KEY=VALUE"),
        (["patches.size.x=1"], "patches.size"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(overrides: list[str], named: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(None, overrides)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_preset_lies_under_the_file_and_the_overrides(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text("[plan]\nvalidation = 0.2\n[patches]\nnormals_per_film = 50\n")
    job = load_settings(file, ["patches.normals_per_film=60"], "seed")
    assert (job.plan.patches, job.plan.split, job.plan.validation) == (50_718, "patch", 0.2)
    assert job.patches.normals_per_film == 60
    assert load_settings(None, [], "seed").build == preset("seed")
    assert load_settings(None, []).plan.patches is None
    assert preset("seed").plan.patches == 50_718


def test_an_unknown_preset_is_named_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="unknown preset '2020': expected one of seed"):
        preset("2020")
    with pytest.raises(SettingsError, match="unknown preset '2020': expected one of seed"):
        load_settings(None, [], "2020")


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="could not be read"):
        read_toml(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[patches\n")
    with pytest.raises(SettingsError, match="not a TOML file"):
        read_toml(broken)


def test_overrides_leave_the_given_values_alone() -> None:
    values = {"patches": {"size": 64}}
    assert with_overrides(values, ["patches.size=128"]) == {"patches": {"size": 128}}
    assert values == {"patches": {"size": 64}}


def test_a_source_is_kind_and_path() -> None:
    source = SourceSettings.parse("mini-mias=/data/a=b.zip")
    assert (source.kind, source.path) == ("mini-mias", "/data/a=b.zip")
    with pytest.raises(SettingsError, match="expected KIND=PATH"):
        SourceSettings.parse("/data")
    with pytest.raises(SettingsError, match="unknown source 'inbreast': expected one of cbis-ddsm, ddsm, mini-mias"):
        SourceSettings.parse("inbreast=/data")


def test_settings_are_frozen_and_their_fields_described() -> None:
    settings = PatchSettings()
    with pytest.raises(ValueError, match="frozen"):
        settings.size = 3  # type: ignore[misc]
    stages = [BuildSettings, *(field.annotation for field in BuildSettings.model_fields.values())]
    for stage in stages:
        assert all(field.description for field in stage.model_fields.values()), stage  # type: ignore[union-attr]


def test_a_digest_follows_values_and_nothing_else() -> None:
    assert digest(PatchSettings()) == digest(validated(PatchSettings, {"size": 256}, "test"))
    assert digest(PatchSettings()) != digest(PatchSettings(size=255))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(CleaningSettings(), PatchSettings()) != digest(PatchSettings(), CleaningSettings())
