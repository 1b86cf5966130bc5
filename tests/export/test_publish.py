"""Upload to a simulated Hub, and the ONNX file."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import torch

from diffusion_lab.diffusion import EDM, Epsilon, Flow, StraightPath, VESchedule, VPSchedule
from diffusion_lab.errors import UserError
from diffusion_lab.export import onnx
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks import MLP, DiT, FastUNet
from tests.cli.test_bad_input import assert_refused

TOKEN = "hf_stand_in"


class StandIn(BaseHTTPRequestHandler):
    """Simulated Hub: answers the requests that create a repository and upload a folder.

    A file is sent in the commit itself ("regular") or, where `server.lfs` says so, to an address of
    its own first, and the commit names its hash.
    """

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self):
        path, _, _ = self.path.partition("?")
        body, server = self.body(), self.server
        server.calls.append((path, self.headers.get("Authorization")))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid credentials"}, 401)
        elif path == "/api/repos/create":
            server.repo = json.loads(body)
            self.answer({"url": f"{server.url}/me/digits"})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path == "/api/models/me/digits/preupload/main":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(server.lfs) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif path == "/me/digits.git/info/lfs/objects/batch":
            objects = [
                o | {"actions": {"upload": {"href": f"{server.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif path == "/api/models/me/digits/commit/main":
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    server.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    server.files[value["path"]] = server.objects[value["oid"]]
            commit = "0" * 40
            url = f"{server.url}/me/digits/commit/{commit}"
            self.answer({"commitUrl": url, "commitOid": commit, "success": True})
        else:
            self.answer({"error": path}, 404)

    def do_PUT(self):
        content = self.body()
        self.server.objects[hashlib.sha256(content).hexdigest()] = content
        assert self.path.endswith(hashlib.sha256(content).hexdigest())
        self.answer({})

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.lfs, server.calls, server.files, server.objects = ("nothing",), [], {}, {}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("lfs", [False, True])
def test_every_file_is_uploaded_unchanged(typed, trained, hub, tmp_path, monkeypatch, lfs):
    if lfs:  # without hf_xet, whose protocol is not simulated
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        hub.lfs = (".safetensors",)
    words = ["--push", "me/digits", f"endpoint={hub.url}", "private=true"]
    code, out, err = typed("export", f"run={trained['ddpm']}", "out=new", *words)
    assert code == 0, err
    assert out.splitlines()[-2:] == [f"{hub.url}/me/digits", str(tmp_path / "new")]
    assert hub.repo["name"] == "digits" and hub.repo["organization"] == "me"
    assert hub.repo["visibility"] == "private"
    sent = {path: content for path, content in hub.files.items() if path != ".gitattributes"}
    there = [path for path in (tmp_path / "new").rglob("*") if path.is_file()]
    assert sent == {str(p.relative_to(tmp_path / "new")): p.read_bytes() for p in there}
    assert bool(hub.objects) == lfs
    assert 'from_pretrained("me/digits"' in sent["README.md"].decode()
    assert {authorization for _, authorization in hub.calls} == {f"Bearer {TOKEN}"}


@pytest.mark.slow
def test_a_rejected_token_and_a_missing_server_are_reported_in_one_line(
    typed, trained, hub, tmp_path, monkeypatch
):
    words = [f"run={trained['ddpm']}", "out=new", "push=me/digits"]
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert_refused(typed("export", *words, f"endpoint={hub.url}"), "me/digits", "401", "HF_TOKEN")
    hub.shutdown()
    hub.server_close()
    result = typed("export", *words, f"endpoint={hub.url}")
    assert_refused(result, hub.url, "cannot be reached")
    assert not list(tmp_path.iterdir())


def test_missing_onnx_packages_are_reported_in_one_line(typed, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "NEEDED", ("onnx_that_is_missing",))
    result = typed("export", f"run={trained['ddpm']}", "out=new", "onnx=true")
    assert_refused(result, "onnx_that_is_missing", "diffusion-lab[onnx]")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "betas",
        "dit",
        *(pytest.param(k, marks=pytest.mark.exhaustive) for k in ("flow", "edm", "mlp")),
    ],
)
def test_the_onnx_file_matches_the_denoiser(tmp_path, kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    schedule, prediction = {
        "betas": (VPSchedule(), Epsilon()),
        "edm": (VESchedule(), EDM()),
    }.get(kind, (StraightPath(), Flow()))
    torch.manual_seed(0)
    network = {
        "dit": lambda: DiT(width=16, depth=1, heads=2, num_classes=10),
        "mlp": lambda: MLP(1, 28, width=16, depth=1, num_classes=10),
    }.get(kind, lambda: FastUNet(width=8, depth=1, num_classes=10))()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    module = DiffusionModule(network, schedule, prediction, num_classes=10).eval()
    assert onnx.export_onnx(module, (1, 28, 28), tmp_path / "denoiser.onnx") < 1e-3
    session = onnxruntime.InferenceSession(tmp_path / "denoiser.onnx")
    assert [i.name for i in session.get_inputs()] == ["x_t", "t", "labels"]
    t, labels = schedule.at(torch.full((5,), 0.5)), torch.tensor([0, 3, 10, 9, 1])
    x_t = torch.randn(5, 1, 28, 28)
    inputs = {"x_t": x_t.numpy(), "t": t.numpy(), "labels": labels.numpy()}
    [denoised] = session.run(None, inputs)
    with torch.no_grad():
        expected = module.denoise(x_t, t, labels)
    torch.testing.assert_close(torch.from_numpy(denoised), expected, rtol=1e-4, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["denoiser.onnx"]


@pytest.mark.slow
def test_an_onnx_file_that_differs_is_rejected(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    module = DiffusionModule(FastUNet(width=8, depth=1), StraightPath(), Flow()).eval()
    monkeypatch.setattr(onnx, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"denoiser\.onnx"):
        onnx.export_onnx(module, (1, 28, 28), tmp_path / "denoiser.onnx")
