"""LoRA files with random factors: every trainer's names, every form, and the difference that each stands for."""

import torch
from diffusers_keys import diffusers_unet
from safetensors.torch import save_file
from tiny import hugging_face_text

RANK, ALPHA = 4, 3.0
ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")


def flat(name):
    return name.replace(".", "_")


def processor(name):
    """The name that a layer had in diffusers while attention processors held the LoRA."""
    return name.replace(".to_", ".processor.to_").removesuffix(".0")


# key of a factor, "up" or "down", by the names of the layer: diffusers' or transformers'; None: none of this style
STYLES = {
    "kohya": {
        "unet": lambda name, factor: f"lora_unet_{flat(name)}.lora_{factor}.weight",
        "text": lambda name, factor: f"lora_te_{flat(name)}.lora_{factor}.weight",
    },
    "kohya, the first of two": {
        "unet": lambda name, factor: f"lora_unet_{flat(name)}.lora_{factor}.weight",
        "text": lambda name, factor: f"lora_te1_{flat(name)}.lora_{factor}.weight",
    },
    "lycoris": {"unet": lambda name, factor: f"lycoris_{flat(name)}.lora_{factor}.weight"},
    "diffusers, processors": {
        "unet": lambda name, factor: (
            f"unet.{processor(name)}_lora.{factor}.weight" if name.endswith(ATTENTION) else None
        ),
        "text": lambda name, factor: f"text_encoder.{name}.lora_linear_layer.{factor}.weight",
    },
    "diffusers, processors of a UNet alone": {
        "unet": lambda name, factor: f"{processor(name)}_lora.{factor}.weight" if name.endswith(ATTENTION) else None
    },
    "diffusers, up and down": {
        "unet": lambda name, factor: f"unet.{name}.lora.{factor}.weight",
        "text": lambda name, factor: f"text_encoder.{name}.lora.{factor}.weight",
    },
    "peft in diffusers": {
        "unet": lambda name, factor: f"unet.{name}.lora_{'AB'[factor == 'up']}.weight",
        "text": lambda name, factor: f"text_encoder.{name}.lora_{'AB'[factor == 'up']}.weight",
    },
    "peft": {"unet": lambda name, factor: f"base_model.model.{name}.lora_{'AB'[factor == 'up']}.weight"},
}
# the same by the checkpoint's name of a layer
LDM_STYLES = {
    "kohya": lambda name, factor: f"lora_unet_{flat(name)}.lora_{factor}.weight",
    "generic": lambda name, factor: f"diffusion_model.{name}.lora_{factor}.weight",
}


UNREAD = ("model.text_projection", "model.logit_scale")
LINEAR = ("_proj", ".fc1", ".fc2")


def unet_weights(unet):
    """Weights under diffusers' names."""
    return diffusers_unet(unet).state_dict()


def text_weights(tower):
    """Weights under transformers' names, q, k and v apart."""
    return hugging_face_text({key: tensor for key, tensor in tower.state_dict().items() if key not in UNREAD})


def shapes(weights, ends=()):
    return {
        key.removesuffix(".weight"): tensor.shape
        for key, tensor in weights.items()
        if key.endswith(".weight") and tensor.ndim > 1 and (not ends or key.removesuffix(".weight").endswith(ends))
    }


def low_rank(shape, generator):
    """(up, down) for a weight of this shape, as a trainer makes them, and up down."""
    out, into, *kernel = shape
    ones = [1] * len(kernel)
    up = torch.randn(out, RANK, *ones, generator=generator)
    down = torch.randn(RANK, into, *kernel, generator=generator) * (into * 9) ** -0.5
    return up, down, (up.flatten(1) @ down.flatten(1)).reshape(shape)


def random_lora(shapes, key, *, alpha=ALPHA, seed=0, dtype=torch.float32):
    """A LoRA of every layer that the style names. shapes: those of the weights, by the layer's name.

    Returns the file's tensors, and the difference of each layer at strength 1.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors, differences = {}, {}
    for name, shape in shapes.items():
        if key(name, "up") is None:
            continue
        up, down, _ = low_rank(shape, generator)
        up, down = up.to(dtype), down.to(dtype)
        tensors |= {key(name, "up"): up, key(name, "down"): down}
        differences[name] = (up.float().flatten(1) @ down.float().flatten(1)).reshape(shape)
        if alpha is not None:
            layer = next(
                key(name, "up").removesuffix(end)
                for end in ("_lora.up.weight", ".lora_linear_layer.up.weight", ".lora.up.weight", ".lora_up.weight",
                            ".lora_B.weight")
                if key(name, "up").endswith(end)
            )  # fmt: skip
            tensors[f"{layer}.alpha"] = torch.tensor(alpha)
            differences[name] *= alpha / RANK
    return tensors, differences


def kron(first, second):
    """The Kronecker product of a matrix and a matrix or a convolution, block by block."""
    return torch.cat([torch.cat([entry * second for entry in row], dim=1) for row in first])


def forms(shape, seed=0):
    """name: (tensors by their suffixes, the difference at strength 1), for a convolution [out, in, k, k] or a matrix.

    `out` and `in` are even.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*size):
        return torch.randn(*size, generator=generator) / 4

    out, into, *kernel = shape
    ones, alpha, scale = [1] * len(kernel), torch.tensor(ALPHA), ALPHA / RANK
    up, down, product = low_rank(shape, generator)
    found = {
        "lora": ({"lora_up.weight": up, "lora_down.weight": down, "alpha": alpha}, product * scale),
        "lora without alpha": ({"lora_up.weight": up, "lora_down.weight": down}, product),
    }
    w1a, w1b, w2a, w2b = (
        random(out, RANK),
        random(RANK, shape[1:].numel()),
        random(out, RANK),
        random(RANK, shape[1:].numel()),
    )
    hada = {"hada_w1_a": w1a, "hada_w1_b": w1b, "hada_w2_a": w2a, "hada_w2_b": w2b, "alpha": alpha}
    found["loha"] = (hada, ((w1a @ w1b) * (w2a @ w2b)).reshape(shape) * scale)
    small, large = random(2, 2), random(out // 2, into // 2, *kernel)
    whole = kron(small, large)
    found["lokr"] = ({"lokr_w1": small, "lokr_w2": large, "alpha": alpha}, whole)  # alpha has no rank
    w1a, w1b = random(2, RANK), random(RANK, 2)
    found["lokr, the first in two"] = (
        {"lokr_w1_a": w1a, "lokr_w1_b": w1b, "lokr_w2": large, "alpha": alpha},
        kron(w1a @ w1b, large) * scale,
    )
    diff = random(*shape)
    found["difference"] = ({"diff": diff}, diff)
    if kernel:
        mid, down1 = random(RANK, RANK, *kernel), random(RANK, into, *ones)
        core = torch.stack([
            torch.stack([up.flatten(1) @ mid[:, :, y, x] @ down1.flatten(1) for x in range(kernel[1])], -1)
            for y in range(kernel[0])
        ], -2)  # fmt: skip
        tucker = {"lora_up.weight": up, "lora_mid.weight": mid, "lora_down.weight": down1, "alpha": alpha}
        found["locon with a core"] = (tucker, core * scale)
    else:
        w2a, w2b = random(out // 2, RANK), random(RANK, into // 2)
        found["lokr, the second in two"] = (
            {"lokr_w1": small, "lokr_w2_a": w2a, "lokr_w2_b": w2b, "alpha": alpha},
            kron(small, w2a @ w2b) * scale,
        )
    return found


def dora(shape, axis, seed=0):
    """(tensors by their suffixes, the difference before rows, axis 0, or columns get their lengths)."""
    up, down, product = low_rank(shape, torch.Generator().manual_seed(seed))
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    scale = torch.rand(sizes, generator=torch.Generator().manual_seed(seed + 1)) + 0.5
    tensors = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(ALPHA), "dora_scale": scale}
    return tensors, product * ALPHA / RANK


def write_lora(path, tensors, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)
    else:
        torch.save(tensors, path)
    return path
