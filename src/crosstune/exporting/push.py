"""A written folder, to a repository of the hub."""

from pathlib import Path

import huggingface_hub

from crosstune.errors import UserError
from crosstune.models.loading.hub import explained, is_hub_id


def push(folder: Path, repo: str, *, private: bool = True) -> str:
    """Upload a folder's files to a repository, which is made where it is missing.

    Returns:
        The address of the commit.

    Raises:
        UserError: No hub id, no access, or no connection.
    """
    if not is_hub_id(repo) or "@" in repo:
        raise UserError(f'"{repo}" is not a hub id; one reads owner/name')
    with explained(repo, None):
        api = huggingface_hub.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Written by crosstune"))
