"""Named settings for builds that others have published."""

from typing import Any

from mammo_etl.settings import BuildSettings, SettingsError, validated

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # The seed work (2020): 50,718 patches of 4,091 films, 85% of them normal, split 80/10/10 patch by patch. For comparison with its
    # figures only: patients and overlapping patches are in more than one split, and the report counts them.
    "seed": {
        "inventory": {"mixed_ddsm": "normal-only"},
        # The 43,110 normal patches may have to come from a few hundred films of normal cases.
        "patches": {"size": 256, "normals_per_film": 128},
        "plan": {"patches": 50718, "normal_share": 0.85, "split": "patch", "validation": 0.1, "test": 0.1},
    }
}
"""Settings by name, as a settings file gives them; what is not named has its default."""


def preset_values(name: str) -> dict[str, dict[str, Any]]:
    """The settings of a preset that differ from the defaults; raises SettingsError for an unknown name."""
    if name not in PRESETS:
        raise SettingsError(f"unknown preset {name!r}: expected one of {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


def preset(name: str) -> BuildSettings:
    """All settings of a build by a preset; raises SettingsError for an unknown name."""
    return validated(BuildSettings, preset_values(name), f"preset {name}")
