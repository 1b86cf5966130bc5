"""An exported folder on the Hugging Face Hub, or on a server that speaks its language."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from diffusion_lab.errors import UserError

# of requests, httpx or httpx2, as the version of huggingface_hub has it
_HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]


class Hub:
    """A repository to push to, of the account whose token huggingface_hub finds (HF_TOKEN).

    `endpoint` is the server's address, by default HF_ENDPOINT or https://huggingface.co.
    """

    def __init__(self, repo: str, endpoint: str | None = None) -> None:
        """Raise UserError for a name that no repository can have."""
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise UserError(
                f"push={repo} is no repository's name: expected push=<user>/<name>"
            ) from error
        self.repo = repo
        self.api = HfApi(endpoint=endpoint, library_name="diffusion-lab")

    def create(self, private: bool) -> None:
        """Make the repository if it is not there; UserError if the server will not."""
        with self._one_line():
            self.api.create_repo(self.repo, private=private, exist_ok=True, repo_type="model")

    def upload(self, folder: Path) -> str:
        """Commit all files of the folder at once and return the repository's address."""
        with self._one_line():
            commit = self.api.upload_folder(
                repo_id=self.repo,
                folder_path=folder,
                commit_message="Export of diffusion_lab",
            )
        return str(commit.repo_url)

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        where = f"push={self.repo}: {self.api.endpoint}"
        try:
            yield
        except HfHubHTTPError as error:
            status = error.response.status_code
            token = status in (401, 403)
            hint = ": hf auth login, or set HF_TOKEN to a token that may write" if token else ""
            raise UserError(f"{where} refused with status {status}{hint}") from error
        except (_HTTPError, OSError) as error:
            raise UserError(
                f"{where} cannot be reached ({type(error).__name__}): export without push="
            ) from error
