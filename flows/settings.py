"""One settings file for the whole job: the stages of a build, the cluster, training, and the search for its settings."""

from pathlib import Path

from flows.clusters import ClusterSettings
from flows.ops.ops_settings import OpsSettings
from mammo_etl.presets import preset_values
from mammo_etl.settings import BuildSettings, laid_over, read_toml, validated, with_overrides
from mammo_model.scoring_settings import ScoringSettings
from mammo_model.settings import TrainingSettings
from mammo_model.tuning_settings import TuningSettings


class JobSettings(BuildSettings):
    """All settings of a build and of the training on it; each table of the TOML file is one stage."""

    cluster: ClusterSettings = ClusterSettings()
    """Where the work is done."""
    training: TrainingSettings = TrainingSettings()
    """The model and how it is trained."""
    scoring: ScoringSettings = ScoringSettings()
    """How whole films are scored."""
    tuning: TuningSettings = TuningSettings()
    """What a study tunes of that, and how."""
    ops: OpsSettings = OpsSettings()
    """The services of `mammo ops up`."""

    @property
    def build(self) -> BuildSettings:
        """The part that decides the content of a dataset run."""
        return BuildSettings(**{name: getattr(self, name) for name in BuildSettings.model_fields})


def load_settings(path: Path | None, overrides: list[str], preset: str | None = None) -> JobSettings:
    """Defaults, with a preset, a TOML file and then `stage.key=value` texts laid over them; raises SettingsError."""
    named = preset_values(preset) if preset is not None else {}
    values = with_overrides(laid_over(named, read_toml(path) if path is not None else {}), overrides)
    origin = str(path) if path is not None and not overrides else "settings"
    return validated(JobSettings, values, origin)
