"""Which denoisers of diffusers are served, and what their settings make a caller pass to them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from hard_aug.generative.conditioning import ClassLabels, Conditioning, Unconditional, argument_names
from hard_aug.generative.known_settings import names, unknown_settings

#: Arguments that every denoiser of a class requires.
REQUIRED: dict[str, tuple[str, ...]] = {
    "UNet2DModel": (),
    "UNet2DConditionModel": ("encoder_hidden_states",),
    "DiTTransformer2DModel": ("class_labels",),
    "PixArtTransformer2DModel": ("encoder_hidden_states",),
    "SD3Transformer2DModel": ("encoder_hidden_states", "pooled_projections"),
    "SanaTransformer2DModel": ("encoder_hidden_states",),
}
#: Further arguments, by the name and value of the setting that makes the denoiser use them.
REQUIRED_BY_SETTING: dict[tuple[str, object], tuple[str, ...]] = {
    ("addition_embed_type", "text"): (),  # from encoder_hidden_states
    ("addition_embed_type", "text_time"): ("added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids"),
    ("addition_embed_type", "text_image"): ("added_cond_kwargs.image_embeds",),
    ("addition_embed_type", "image"): ("added_cond_kwargs.image_embeds",),
    ("addition_embed_type", "image_hint"): ("added_cond_kwargs.image_embeds", "added_cond_kwargs.hint"),
    ("encoder_hid_dim_type", "text_proj"): (),  # from encoder_hidden_states
    ("encoder_hid_dim_type", "text_image_proj"): ("added_cond_kwargs.image_embeds",),
    ("encoder_hid_dim_type", "image_proj"): ("added_cond_kwargs.image_embeds",),
    ("encoder_hid_dim_type", "ip_image_proj"): ("added_cond_kwargs.image_embeds",),
    ("use_additional_conditions", True): ("added_cond_kwargs.resolution", "added_cond_kwargs.aspect_ratio"),
}
#: Settings that are refused if they have this value, and why.
REFUSED: dict[tuple[str, str, object], str] = {
    ("UNet2DModel", "time_embedding_type", "fourier"): "it takes sigmas for timesteps, which no scheduler here gives",
    ("SanaTransformer2DModel", "guidance_embeds", True): "it takes an embedded guidance scale, which is not passed",
}
#: Settings that are served by what is passed, or checked.
APPLIED = names(
    "sample_size in_channels out_channels num_class_embeds class_embed_type num_embeds_ada_norm time_cond_proj_dim "
    "timestep_scale guidance_embeds time_embedding_type addition_embed_type encoder_hid_dim_type "
    "use_additional_conditions"
)
#: Settings of the networks, which act inside of them and change nothing that is passed but the widths of embeddings.
OF_THE_NETWORKS = names(
    "center_input_sample time_embedding_dim freq_shift flip_sin_to_cos down_block_types mid_block_type up_block_types "
    "block_out_channels layers_per_block mid_block_scale_factor downsample_padding downsample_type upsample_type "
    "dropout act_fn attention_head_dim norm_num_groups attn_norm_num_groups norm_eps resnet_time_scale_shift "
    "add_attention num_train_timesteps only_cross_attention cross_attention_dim transformer_layers_per_block "
    "reverse_transformer_layers_per_block encoder_hid_dim num_attention_heads dual_cross_attention "
    "use_linear_projection addition_time_embed_dim upcast_attention resnet_skip_time_act resnet_out_scale_factor "
    "time_embedding_act_fn timestep_post_act conv_in_kernel conv_out_kernel projection_class_embeddings_input_dim "
    "attention_type class_embeddings_concat mid_block_only_cross_attention cross_attention_norm "
    "addition_embed_type_num_heads num_layers attention_bias patch_size activation_fn norm_type "
    "norm_elementwise_affine interpolation_scale caption_channels joint_attention_dim caption_projection_dim "
    "pooled_projection_dim pos_embed_max_size dual_attention_layers qk_norm num_cross_attention_heads "
    "cross_attention_head_dim mlp_ratio guidance_embeds_scale"
)


def check_denoiser(denoiser: nn.Module) -> None:
    """Check that a denoiser is served, with its settings.

    Raises:
        TypeError: no denoiser of diffusers, or one of a class that is called in another way.
        ValueError: a setting that changes results and is not served.
    """
    config: Any = getattr(denoiser, "config", None)
    kind = _kind(denoiser)
    foreign = kind is None and type(denoiser).__module__.startswith("diffusers.")
    if not isinstance(denoiser, nn.Module) or not hasattr(config, "in_channels") or foreign:
        raise TypeError(
            f"denoiser: expected one of diffusers ({', '.join(REQUIRED)}), or a module that is called as they are, got "
            f"{type(denoiser).__name__}"
        )
    name, inputs = type(denoiser).__name__, int(config.in_channels)
    outputs = getattr(config, "out_channels", None) or inputs
    if outputs not in (inputs, 2 * inputs):
        raise ValueError(
            f"{name} has in_channels={inputs} and out_channels={outputs}: expected the same number, or twice as many "
            "with a learned variance; denoisers that take a mask or an image beside the noisy sample are not served"
        )
    for (of, key, value), reason in REFUSED.items():
        if kind == of and getattr(config, key, None) == value:
            raise ValueError(f"{name} has {key}={value!r}, which is not served: {reason}")
    for key, (value, _) in ({} if kind is None else unknown_settings(denoiser, APPLIED | OF_THE_NETWORKS)).items():
        raise ValueError(
            f"{name} has {key}={value!r}, a setting that is not known here, so that the denoiser could require what is "
            "not passed to it"
        )


def check_condition(denoiser: nn.Module, condition: Conditioning) -> None:
    """Check that a denoiser gets what it requires, and uses what it gets.

    Raises:
        ValueError: an argument is missing or has no effect, or a label has no embedding.
    """
    kind, config = _kind(denoiser), denoiser.config
    if kind is None:
        return
    device = next(denoiser.parameters()).device
    given = set(argument_names(condition(torch.zeros(1, dtype=torch.int64, device=device))))
    required, name = _required(denoiser), type(denoiser).__name__
    if missing := sorted(required - given):
        raise ValueError(
            f"{name} requires {', '.join(missing)} according to its config, and {condition!r} gives "
            f"{', '.join(sorted(given)) or 'nothing'}; give condition=ClassEmbeddings({{argument: rows of each class}})"
            ", or ClassLabels for class_labels alone"
        )
    if unused := sorted(each for each in given - required if not _uses(denoiser, each, required)):
        raise ValueError(
            f"{name} does not use {', '.join(unused)} according to its config; the condition was made for another "
            "denoiser: leave them out"
        )
    rows = label_count(config)
    if rows is not None and isinstance(condition, ClassLabels):
        labels = [condition.classes - 1] + ([] if condition.none_label is None else [condition.none_label])
        if not 0 <= min(labels) <= max(labels) < rows:
            raise ValueError(f"{condition!r}: {name} has embeddings of {rows} labels, from 0 to {rows - 1}")


def default_condition(denoiser: nn.Module) -> Conditioning:
    """Return how labels are passed if a denoiser's config tells.

    Raises:
        ValueError: a denoiser that is conditioned on text.
    """
    config: Any = denoiser.config
    if "encoder_hidden_states" in REQUIRED.get(_kind(denoiser) or "", ()) or _is_required(denoiser):
        raise ValueError(
            f"{type(denoiser).__name__} is conditioned on text: give the embedding of a prompt for each class, "
            'condition=ClassEmbeddings({"encoder_hidden_states": embeddings})'
        )
    classes = getattr(config, "num_class_embeds", None)
    if classes is not None:  # the config does not say whether one of them stands for no class
        return ClassLabels(classes)
    classes = getattr(config, "num_embeds_ada_norm", None)  # DiT; its embeddings have one more row, for no class
    if classes is not None and has_argument(denoiser, "class_labels"):
        return ClassLabels(classes, none_label=classes)
    return Unconditional()


def label_count(config: Any) -> int | None:
    """Return the number of labels with an embedding; None if labels are not embedded by a table."""
    if getattr(config, "class_embed_type", None) is None and getattr(config, "num_class_embeds", None) is not None:
        return int(config.num_class_embeds)
    classes = getattr(config, "num_embeds_ada_norm", None)
    return None if classes is None else int(classes) + 1


def has_argument(denoiser: nn.Module, name: str) -> bool:
    """Return whether a denoiser's `forward` has an argument."""
    return name in inspect.signature(denoiser.forward).parameters


def _is_required(denoiser: nn.Module) -> bool:
    parameter = inspect.signature(denoiser.forward).parameters.get("encoder_hidden_states")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _uses(denoiser: nn.Module, argument: str, required: set[str]) -> bool:
    """Return whether a denoiser uses an argument that no setting requires."""
    outer = argument.split(".")[0]
    if outer == "added_cond_kwargs":  # further ones of a setting that requires some
        return any(name.startswith(outer) for name in required)
    return outer != "class_labels" and has_argument(denoiser, outer)


def _kind(denoiser: object) -> str | None:
    return next((kind.__name__ for kind in type(denoiser).__mro__ if kind.__name__ in REQUIRED), None)


def _required(denoiser: nn.Module) -> set[str]:
    config: Any = denoiser.config
    required = set(REQUIRED[_kind(denoiser) or ""])
    for (key, value), arguments in REQUIRED_BY_SETTING.items():
        if getattr(config, key, None) == value:
            required |= set(arguments)
    embedded = (getattr(config, name, None) for name in ("class_embed_type", "num_class_embeds"))
    return required | ({"class_labels"} if any(setting is not None for setting in embedded) else set())
