"""Upload of an exported folder to the Hugging Face Hub or a compatible server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from diffusion_lab.errors import UserError

# of the library requests, httpx or httpx2, depending on the version of huggingface_hub
_HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]


class Hub:
    """A repository on the Hugging Face Hub, or on a compatible server, to upload to.

    `endpoint` is the server's address, by default HF_ENDPOINT or https://huggingface.co. The
    account's token comes from huggingface_hub, such as from HF_TOKEN.
    """

    def __init__(self, repo: str, endpoint: str | None = None) -> None:
        """Store the repository's name, <user>/<name>; UserError if the name is invalid."""
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise UserError(
                f"push={repo} is no valid repository name: expected push=<user>/<name>"
            ) from error
        self.repo = repo
        self.api = HfApi(endpoint=endpoint, library_name="diffusion-lab")

    def create(self, private: bool) -> None:
        """Create the repository if it does not exist; UserError if the server does not allow it."""
        with self._one_line():
            self.api.create_repo(self.repo, private=private, exist_ok=True, repo_type="model")

    def upload(self, folder: Path) -> str:
        """Upload all files of a folder in one commit and return the repository's address."""
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
            hint = (
                ": type hf auth login, or set HF_TOKEN to a token with write access"
                if token
                else ""
            )
            raise UserError(f"{where} rejected the request with status {status}{hint}") from error
        except (_HTTPError, OSError) as error:
            raise UserError(
                f"{where} cannot be reached ({type(error).__name__}): check the network, "
                "or export without push="
            ) from error
