"""The Prefect profile by which `prefect` and `mammo` in any shell of the user reach the server of `mammo ops up`."""

from typing import Any

from prefect.settings import Profile, get_current_settings, load_profiles, save_profiles

from flows.ops.installation import Installation
from flows.ops.ops_settings import OpsSettings

NAME = "mammo"


def activate(installation: Installation, ops: OpsSettings) -> None:
    """Writes the profile and makes it the active one, and remembers which was."""
    profiles = load_profiles()
    if profiles.active_name not in {None, NAME}:
        installation.previous_profile.write_text(str(profiles.active_name))
    values: dict[Any, Any] = dict(installation.client_environment(ops))
    if NAME in profiles.names:
        profiles.remove_profile(NAME)
    profiles.add_profile(Profile(name=NAME, settings=values))
    profiles.set_active(NAME)
    path = get_current_settings().profiles_path
    path.parent.mkdir(parents=True, exist_ok=True)
    # The password stands in it, and Prefect leaves the mode of a file that is there as it is.
    path.touch(mode=0o600)
    path.chmod(0o600)
    save_profiles(profiles)


def deactivate(installation: Installation) -> None:
    """Takes the profile away, and has the former one active again if it was active."""
    profiles = load_profiles()
    if NAME not in profiles.names:
        return
    if profiles.active_name == NAME:
        before = installation.previous_profile.read_text() if installation.previous_profile.exists() else "ephemeral"
        profiles.set_active(before if before in profiles.names else None)
    profiles.remove_profile(NAME)
    save_profiles(profiles)
