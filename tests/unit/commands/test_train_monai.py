"""Training that begins from weights of MONAI's networks: they compute what they did, and files that do not fit are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from safetensors.torch import load_file, save_file
from torch import nn

from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.data.store import Store
from volgen.origin.outside import weights_of
from volgen.origin.starts import monai
from volgen.recipe import Recipe
from volgen.runs.trained import open_run

UNET = {"kind": "unet3d", "channels": [8, 16], "attention": [False, True], "residual_blocks": 1, "head_channels": 8, "norm_groups": 4}
LATENT = {"kind": "latent", "channels": [4, 8], "norm_groups": 4, "latent_channels": 2, "steps": 2, "gate": 0.0}


def recipe(store: Path, runs: Path, **sections: Any) -> Recipe:
    content = {
        "name": "run", "runs": str(runs), "seed": 5, "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "vp_linear", "points": 4}, "network": UNET, "preconditioner": {"kind": "epsilon"},
        "optimiser": {"warmup_steps": 1, "learning_rate": 1e-12}, "ema": {"decay": 0.0},
        "stopping": {"max_steps": 1, "validate_every": 1, "validation_volumes": 2, "validation_draws": 1},
    }  # fmt: skip
    return validate(Recipe, {**content, **sections}, "test")


def awake(network: nn.Module) -> nn.Module:
    """Random weights everywhere: MONAI's last layer begins with zeros."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3)
    return network.eval()


def unet(**other: Any) -> nn.Module:
    settings = {"channels": (8, 16), "attention_levels": (False, True), "num_res_blocks": 1, "num_head_channels": 8, "norm_num_groups": 4}
    return awake(DiffusionModelUNet(spatial_dims=3, in_channels=1, out_channels=1, **{**settings, **other}))


def autoencoder() -> nn.Module:
    return awake(
        AutoencoderKL(
            spatial_dims=3, channels=(4, 8), attention_levels=(False, False), num_res_blocks=1, latent_channels=2, norm_num_groups=4,
            with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
        )
    )  # fmt: skip


@pytest.mark.parametrize(("schedule", "betas"), [("linear_beta", (1e-4, 0.02)), ("scaled_linear_beta", (0.0015, 0.0195))])
def test_an_imported_denoiser_is_the_one_that_monai_has(
    schedule: str, betas: tuple[float, float], tmp_path: Path, blob_store: Path
) -> None:
    """x0 from noise that MONAI's network predicts at a timestep, by MONAI's own scheduler."""
    theirs, path = unet(), tmp_path / "unet.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}}, path)
    network = {**UNET, "timesteps": schedule, "beta_start": betas[0], "beta_end": betas[1]}
    own = recipe(blob_store, tmp_path, network=network, start={"kind": "monai", "denoiser": str(path)})
    (phase,) = own.phases()
    start = own.start.build(own, Store.open(blob_store), open_run)
    method = own.build()
    ours = method.denoiser(method.network(phase, start.weights(phase)).eval(), own.preconditioner.fit(list, [], 0))
    scheduler = DDPMScheduler(num_train_timesteps=1000, schedule=schedule, beta_start=betas[0], beta_end=betas[1], clip_sample=False)
    x, noise = torch.rand(1, 1, 8, 8, 8) * 2 - 1, torch.randn(1, 1, 8, 8, 8)
    for step in (0, 7, 400, 999):
        kept = scheduler.alphas_cumprod[step].double()
        sigma = float(((1 - kept) / kept).sqrt())
        noisy = scheduler.add_noise(x, noise, torch.tensor([step]))
        with torch.no_grad():
            predicted = theirs(noisy, torch.tensor([step]))
            expected = (noisy - (1 - kept).sqrt().float() * predicted) / kept.sqrt().float()
            made = ours(x + sigma * noise, torch.tensor([sigma]))
        assert float((made - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max())), step


def test_a_run_goes_on_from_files_of_both_networks(blob_store: Path, tmp_path: Path) -> None:
    files = {"denoiser": str(tmp_path / "unet.safetensors"), "autoencoder": str(tmp_path / "kl.safetensors")}
    theirs, codec = unet(), autoencoder()
    save_file(theirs.state_dict(), files["denoiser"])
    save_file(codec.state_dict(), files["autoencoder"])
    run = train(recipe(blob_store, tmp_path, method=LATENT, start={"kind": "monai", **files}))
    first, expert = (load_file(run / f"experts/{name}/weights.safetensors") for name in ("autoencoder", "0"))
    for ours, state in ((first, codec.state_dict()), (expert, theirs.state_dict())):
        assert all(torch.allclose(ours[f"net.{name}"], tensor, atol=1e-6) for name, tensor in state.items())
    x = torch.rand(1, 1, 16, 16, 16) * 2 - 1
    space = open_run(run).space(torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(space.decode(space.encode(x)), codec.decode(codec.encode(x)[0]), atol=1e-5, rtol=1e-5)
    save_file(unet(norm_eps=1e-5).state_dict() | {"out.2.conv.bias": torch.ones(1)}, files["denoiser"])
    again = recipe(blob_store, tmp_path, method=LATENT, start={"kind": "monai", **files})
    (run / "ensemble.json").unlink()
    with pytest.raises(UserError, match="names other weights"):
        train(again)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: unet(num_res_blocks=2).state_dict(), r"has down_blocks\.0\.resnets\.1.*which this network has not"),
        (lambda: unet(channels=(8, 24)).state_dict(), r"has .* of shape \[.*\], and in this network \[.*\] \([0-9]+ more differ\)"),
        (lambda: {name: tensor for name, tensor in unet().state_dict().items() if not name.startswith("out.")}, r"lacks out\.0\.weight"),
        (lambda: {name: tensor * float("nan") for name, tensor in unet().state_dict().items()}, "no finite numbers"),
        (lambda: {name: tensor.double() * 1e300 for name, tensor in unet().state_dict().items()}, "no finite numbers"),
        (lambda: {"weights": [1, 2, 3]}, "something else than tensors by name"),
        (lambda: Evil(), "cannot be read as tensors by name"),
    ],
)
def test_files_that_do_not_fit_are_refused(content: Any, message: str, blob_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content(), path)
    with pytest.raises(UserError, match=message):
        train(recipe(blob_store, tmp_path, start={"kind": "monai", "denoiser": str(path)}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"start": {"kind": "monai"}}, "neither denoiser nor autoencoder"),
        ({"start": {"kind": "monai", "denoiser": "x"}, "network": {"kind": "wavelet_unet3d"}}, "use unet3d"),
        ({"start": {"kind": "monai", "autoencoder": "x"}}, "is for latents"),
        (
            {
                "start": {"kind": "monai", "denoiser": "x"}, "privacy": {"kind": "dp_sgd", "epsilon": 6.0, "delta": 1e-3},
                "optimiser": {"gradient_clip": 0.0}, "stopping": {"max_steps": 3, "min_steps": 3},
            },
            "start.not_compared",
        ),
    ],
)  # fmt: skip
def test_what_cannot_begin_so_is_refused(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, tmp_path, **sections)


def test_a_file_that_is_not_there_is_named(blob_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"start\.denoiser: there is no file"):
        train(recipe(blob_store, tmp_path, start={"kind": "monai", "denoiser": str(tmp_path / "no.pt")}))


def test_a_file_is_looked_at_once_however_many_experts_there_are(blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "unet.safetensors", []
    save_file(unet().state_dict(), path)
    monkeypatch.setattr(monai, "weights_of", lambda *what: read.append(what[1]) or weights_of(*what))
    own = recipe(blob_store, tmp_path, start={"kind": "monai", "denoiser": str(path)}, experts={"count": 4})
    own.start.build(own, Store.open(blob_store), open_run)
    assert read == [path]
