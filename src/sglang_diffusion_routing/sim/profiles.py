"""What kind of model a simulated worker says it serves."""

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Profile:
    """One model as its worker describes it, with the defaults of its sampling parameters.

    `modules` are in the order in which the real pipeline lists them in checksums and refit messages.
    `max_side` is the longest side in pixels that the model can make (SD3's position table: 192 latents of 8 pixels).
    `decode_share` is the part of a generation's time that is spent after the last denoising step, when the progress of
    a video stands at 99.
    """

    default_model_path: str
    pipeline: str
    task_type: str
    supported_task_types: tuple[str, ...]
    output_types: tuple[str, ...]
    modules: tuple[str, ...]
    width: int
    height: int
    frames: int
    steps: int
    max_side: int
    decode_share: float

    @property
    def accepts_image(self) -> bool:
        return any(task in {"I2V", "TI2V", "I2I", "TI2I", "I2M"} for task in self.supported_task_types)

    @property
    def is_image_gen(self) -> bool:
        return self.task_type in {"T2I", "I2I", "TI2I"}


PROFILES = MappingProxyType(
    {
        "sd3": Profile(
            default_model_path="sim/stable-diffusion-3-medium",
            pipeline="StableDiffusion3Pipeline",
            task_type="T2I",
            supported_task_types=("T2I",),
            output_types=("IMAGE",),
            modules=("transformer", "vae", "text_encoder_3", "text_encoder_2", "text_encoder"),
            width=1024,
            height=1024,
            frames=1,
            steps=50,
            max_side=1536,
            decode_share=0.05,
        ),
        "wan": Profile(
            default_model_path="sim/wan2.1-t2v-1.3b",
            pipeline="WanPipeline",
            task_type="T2V",
            supported_task_types=("T2V",),
            output_types=("VIDEO",),
            modules=("vae", "transformer", "text_encoder"),
            width=832,
            height=480,
            frames=81,
            steps=50,
            max_side=2048,
            decode_share=0.3,
        ),
        "edit": Profile(
            default_model_path="sim/qwen-image-edit",
            pipeline="QwenImageEditPipeline",
            task_type="TI2I",
            supported_task_types=("TI2I",),
            output_types=("IMAGE",),
            modules=("transformer", "vae", "text_encoder"),
            width=1024,
            height=1024,
            frames=1,
            steps=50,
            max_side=2048,
            decode_share=0.05,
        ),
        "mesh": Profile(
            default_model_path="sim/hunyuan3d-2",
            pipeline="Hunyuan3D2Pipeline",
            task_type="I2M",
            supported_task_types=("I2M",),
            output_types=("MESH",),
            modules=("transformer", "vae", "conditioner"),
            width=512,
            height=512,
            frames=1,
            steps=50,
            max_side=2048,
            decode_share=0.3,
        ),
    }
)
