"""Where a flow works: a parameter that Python gives as a path or an URL, and that forms show as one field."""

from pathlib import Path
from typing import Annotated

from pydantic import WithJsonSchema

WorkspaceParameter = Annotated[Path | str, WithJsonSchema({"type": "string", "format": "path"})]
"""A local path, or `s3://BUCKET/PREFIX`."""
