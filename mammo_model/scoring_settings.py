"""Settings of scoring whole films."""

from typing import Annotated

from pydantic import Field

from mammo_etl.settings import Settings


class ScoringSettings(Settings):
    """How a film is looked over, patch by patch."""

    stride: Annotated[int, Field(ge=1)] | None = None
    """Step between patches, pixels, and never more than a patch; without it, half a patch."""
    min_breast: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Least share of breast in a patch that is scored: tissue up to the skin line is in patches that hold more of it."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Places with a higher P(abnormal) are lesion candidates."""
    most_candidates: Annotated[int, Field(ge=0)] = 20
    """Most candidates of a film, the highest scores first."""
