"""Keys and configuration by which Dask's scheduler, workers and clients speak TLS with each other, and with nobody else."""

import os
from pathlib import Path

import yaml
from distributed.security import Security

from mammo_etl.settings import SettingsError

CONFIGURATION = "dask.yaml"


def write_certificates(folder: Path) -> Path:
    """Writes `ca.pem`, `cert.pem`, `key.pem` and `dask.yaml` into `folder`, which is made; returns the path of the last.

    Each end shows the same certificate and trusts that one alone, so whoever holds the key is let in: files and folder are readable by their owner
    only. It is the one of distributed's `Security.temporary`, good for 365 days. With `DASK_CONFIG` set to `dask.yaml`, all that Dask does in a
    process is encrypted, and an unencrypted connection is refused. Raises SettingsError where there are certificates already: a running cluster uses them.
    """
    folder = folder.absolute()
    target = folder / CONFIGURATION
    if target.exists():
        raise SettingsError(
            f"{target}: there are certificates already; expected an empty folder. Remove them first to have new ones"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = Security.temporary()
    texts = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    paths = {name: folder / f"{name}.pem" for name in texts}
    for name, path in paths.items():
        write_private(path, texts[name])
    role = {"cert": str(paths["cert"]), "key": str(paths["key"])}
    tls = {"ca-file": str(paths["ca"]), "scheduler": role, "worker": role, "client": role}
    dask_config = {"distributed": {"comm": {"require-encryption": True, "default-scheme": "tls", "tls": tls}}}
    # Last: where it is, the other files are whole.
    write_private(target, yaml.safe_dump(dask_config, sort_keys=False))
    return target


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        # One that was there keeps its mode.
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
