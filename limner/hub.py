"""Saved models: a folder with `config.json`, `model.safetensors` and a model card, here or on the Hugging Face hub. Never a pickle.

`save_pretrained`, `from_pretrained` and `push_to_hub` are those of `huggingface_hub.ModelHubMixin`; this file only says what is
written and how it is read. `config.json` names the model in the catalogue, so `limner.load` needs no class.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub import logging as hub_logging
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from limner import card, models
from limner.capabilities import Samples, Tokenizes
from limner.config import from_mapping
from limner.errors import UserError
from limner.files import write_atomically
from limner.version import __version__

if TYPE_CHECKING:
    from limner.model import Model

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class HubModel(ModelHubMixin):
    """Adds `save_pretrained`, `from_pretrained` and `push_to_hub` to a model."""

    def _save_pretrained(self, save_directory: Path) -> None:
        """Config, weights, a picture of samples, the figures of the run that the model came from, and the card with both."""
        model: Any = self
        save_directory.mkdir(parents=True, exist_ok=True)
        if isinstance(model, Samples):
            from limner.data.grid import save_grid

            with torch.no_grad():
                save_grid(model.sample(16, generator=0), save_directory / card.PICTURE)
        origin = getattr(model, "origin", None)
        if origin is not None and (origin / card.FIGURES).is_file() and origin != save_directory:
            write_atomically(save_directory / card.FIGURES, (origin / card.FIGURES).read_bytes())
        save(model, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id, revision, cache_dir, force_download, local_files_only, token, **_):  # type: ignore[override]
        return load(
            model_id,
            expect=cls,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )


def save(model: Model, folder: str | Path, *, name: str | None = None) -> None:
    """Write `config.json`, `model.safetensors` and the model card. Each file appears whole or not at all.

    `name` is the model's name in the catalogue; without it, it is looked up by class.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"limner": __version__, **describe(model, name)}
    write_atomically(folder / CONFIG, json.dumps(document, indent=2) + "\n")
    # Tied tensors are saved once each under their own name: `contiguous().clone()` gives every name its own storage.
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    # One key of metadata only: safetensors writes several in random order, and equal weights should be equal bytes.
    write_atomically(folder / WEIGHTS, safetensors.torch.save(state, metadata={"format": "pt"}))
    card.write(folder, model, document["model"])


def describe(model: Any, name: str | None = None) -> dict[str, Any]:
    """What makes the model again, without its weights: its name and configuration, and those of its first stage if it has one."""
    first_stage = getattr(model, "first_stage", None)
    if first_stage is None:
        return {"model": name or models.name_of(type(model)), "config": dataclasses.asdict(model.config)}
    return {
        "model": name or models.name_of(type(model.priors[0])),
        "config": dataclasses.asdict(model.config),
        "first_stage": describe(first_stage),
    }


def load(
    source: str | Path, *, device: str | torch.device = "cpu", expect: type | None = None, **hub_options: Any
) -> Model:
    """Load a trained model, in evaluation mode.

    Args:
        source: a run folder, a folder written by `save_pretrained`, or a repository id of the Hugging Face hub ("user/name").
        device: where to put it.
        expect: a model class that the loaded model must be.
        hub_options: passed to `huggingface_hub.hf_hub_download` (revision, token, cache_dir, local_files_only ...).

    Raises:
        UserError: nothing is there, or what is there is not a model of limner, is damaged, or does not fit its own config.
    """
    folder = Path(source)
    if folder.is_dir():
        config_file, weights_file = folder / CONFIG, folder / WEIGHTS
        for file in (config_file, weights_file):
            if not file.is_file():
                raise UserError(
                    f"'{folder}' has no {file.name}: is it a run folder whose training has saved at least once?"
                )
    elif folder.exists():
        raise UserError(f"'{folder}' is a file; give the run folder that holds {CONFIG} and {WEIGHTS}")
    else:
        config_file, weights_file = _download(str(source), hub_options)

    document = _read_json(config_file)
    model = _build(document, where=str(config_file))
    if expect is not None and not isinstance(model, expect):
        what = f"a '{document['model']}'" + (" with a first stage" if document.get("first_stage") else "")
        raise UserError(f"'{source}' holds {what}, not a {expect.__name__}")
    model.load_state_dict(check_state(read_weights(weights_file), model.state_dict(), where=str(weights_file)))
    model.origin = config_file.parent
    return model.to(device).eval()


def _build(document: Mapping[str, Any], *, where: str) -> Model:
    """A model with fresh weights, from what `describe` gave."""
    name, config = document.get("model"), document.get("config")
    if not isinstance(name, str) or not isinstance(config, dict):
        raise UserError(f"'{where}' does not name a model and its config: it was not written by limner")
    try:
        cls = models.model_class(name)
    except UserError as error:
        raise UserError(f"'{where}': {error}") from None
    settings: Any = from_mapping(cls.Config, config, where=where)
    if document.get("first_stage") is None:
        return cls(settings)
    if not isinstance(document["first_stage"], dict):
        raise UserError(f"'{where}': first_stage does not name a model and its config")
    first_stage = _build(document["first_stage"], where=where)
    if not isinstance(first_stage, Tokenizes):
        raise UserError(f"'{where}': the first stage '{document['first_stage']['model']}' gives no codes")
    from limner import staged  # which is a model itself, and so imports this file

    return staged.build(cls, settings, first_stage)


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: the file is not safetensors, or damaged.
    """
    try:
        return safetensors.torch.load_file(file)
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"'{file}' cannot be read as safetensors ({error}); it is damaged or another kind of file"
        ) from None


def check_state(
    state: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], *, where: str
) -> dict[str, torch.Tensor]:
    """`state`, if its names and shapes are those of `wanted`; else a UserError that names the first difference."""
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        what = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}', which the model does not"
        raise UserError(
            f"'{where}' does not fit its config: it {what} ({len(missing)} missing, {len(extra)} unexpected)"
        )
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            raise UserError(
                f"'{where}' does not fit its config: '{key}' is {tuple(state[key].shape)}, not {tuple(value.shape)}"
            )
    return state


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"'{file}' is not readable JSON ({error})") from None
    if not isinstance(document, dict):
        raise UserError(f"'{file}' does not hold a JSON object")
    return document


def _download(repository: str, options: dict[str, Any]) -> tuple[Path, Path]:
    user, slash, _ = repository.partition("/")
    if not slash or Path(user).exists():
        # A mistyped path of a run must not make anybody wait for the network.
        raise UserError(f"there is no folder '{repository}' (and it is not a hub id of the form user/name)")
    told = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # its retries would be told one by one
    try:
        return tuple(Path(hf_hub_download(repository, file, **options)) for file in (CONFIG, WEIGHTS))  # type: ignore[return-value]
    except HFValidationError:
        raise UserError(f"there is no folder '{repository}' (and it is not a hub id of the form user/name)") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"'{repository}' is no folder here, and the hub did not give it: {reason}") from None
    finally:
        hub_logging.set_verbosity(told)
