"""The networks that are tried: where each comes from, and the size of its input."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.networks.handwritten import HANDWRITTEN, Shape


class Family(NamedTuple):
    """Networks from one place."""

    names: tuple[str, ...]
    build: Callable[[str], tuple[nn.Module, Shape]]


class Flat(nn.Module):
    """A network whose outputs are a flat tuple of tensors."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaves(self.net(x)))


def leaves(value: Any) -> list[Tensor]:  # noqa: ANN401 - nested
    """Return the tensors in nested outputs, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    return [leaf for part in value or () for leaf in leaves(part)]


# --- by hand ------------------------------------------------------------------------------------


def _handwritten(name: str) -> tuple[nn.Module, Shape]:
    make, shape = HANDWRITTEN[name]
    return make(), shape


# --- torchvision --------------------------------------------------------------------------------

_CLASSIFIERS = """
    alexnet vgg11 vgg16_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121
    squeezenet1_0 squeezenet1_1 googlenet inception_v3 mobilenet_v2 mobilenet_v3_small
    mobilenet_v3_large shufflenet_v2_x0_5 shufflenet_v2_x1_0 mnasnet0_5 mnasnet1_0
    efficientnet_b0 efficientnet_v2_s regnet_x_400mf regnet_y_400mf convnext_tiny vit_b_32
    swin_t swin_v2_t maxvit_t
"""
CLASSIFIERS = tuple(_CLASSIFIERS.split())
_SEGMENTERS = """
    deeplabv3_resnet50 deeplabv3_mobilenet_v3_large fcn_resnet50 lraspp_mobilenet_v3_large
"""
SEGMENTERS = tuple(_SEGMENTERS.split())
OTHER_SIZES = {
    "inception_v3": 96,
    "vit_b_32": 224,
    "maxvit_t": 224,
    "squeezenet1_0": 96,
    "alexnet": 224,
    "vgg11": 224,
    "vgg16_bn": 224,
}


def load_torchvision() -> Any:  # noqa: ANN401 - a module
    """Import torchvision, also where its compiled operators are for another PyTorch."""
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # It is there already.
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
    return importlib.import_module("torchvision")


def _torchvision(name: str) -> tuple[nn.Module, Shape]:
    models = load_torchvision().models
    size = OTHER_SIZES.get(name, 64)
    if name in SEGMENTERS:
        aux = {} if name.startswith("lraspp") else {"aux_loss": True}
        plain = {"weights": None, "weights_backbone": None, **aux}
        return models.get_model(name, **plain), (3, size, size)
    options: dict[str, Any] = (
        {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    )
    return models.get_model(name, weights=None, **options), (3, size, size)


# --- timm ---------------------------------------------------------------------------------------

_TIMM = """
    resnet18 resnet50d resnext50_32x4d wide_resnet50_2 seresnet50 ecaresnet26t resnetblur50
    resnetaa50 regnetx_002 regnety_002 regnetv_040 regnetz_b16 efficientnet_b0
    efficientnet_lite0 tf_efficientnet_b0 tf_efficientnetv2_b0 efficientnet_es mobilenetv2_050
    mobilenetv3_small_050 tf_mobilenetv3_small_100 mobilenetv4_conv_small
    mobilenetv4_hybrid_medium ghostnet_050 ghostnetv2_100 convnext_atto convnext_tiny
    convnextv2_atto vit_tiny_patch16_224 deit_tiny_patch16_224 swin_tiny_patch4_window7_224
    swinv2_cr_tiny_ns_224 mixer_s32_224 gmlp_ti16_224 resmlp_12_224 poolformer_s12
    poolformerv2_s12 caformer_s18 convformer_s18 edgenext_xx_small mobilevit_xxs mobilevitv2_050
    levit_128s efficientformer_l1 efficientformerv2_s0 fastvit_t8 fastvit_sa12 repvgg_a0
    mobileone_s0 repvit_m0_9 repghostnet_050 hrnet_w18_small dla34 dla46_c densenet121
    inception_v3 inception_v4 inception_resnet_v2 xception41 legacy_xception nfnet_f0
    nf_regnet_b0 nf_resnet26 eca_nfnet_l0 resnetv2_50 resnest14d skresnet18 selecsls42b
    tresnet_m ese_vovnet19b_dw cspresnet50 cspdarknet53 darknet17 darknetaa53 coat_tiny
    coat_lite_tiny crossvit_tiny_240 xcit_nano_12_p16_224 pit_ti_224 pit_ti_distilled_224
    tnt_s_patch16_224 twins_svt_small twins_pcpvt_small visformer_tiny volo_d1_224
    beit_base_patch16_224 cait_xxs24_224 gcvit_xxtiny maxvit_rmlp_pico_rw_256
    coatnet_pico_rw_224 nest_tiny pvt_v2_b0 hgnet_tiny hgnetv2_b0 lcnet_050 tinynet_e
    mnasnet_small semnasnet_075 rexnet_100 rexnetr_200 hardcorenas_a fbnetc_100 spnasnet_100
    mixnet_s dpn48b dpn68 gernet_s halonet26t botnet26t_256 bat_resnext26ts lambda_resnet26t
    lamhalobotnet50ts_256 gcresnext26ts seresnext26t_32x4d eva02_tiny_patch14_224
    focalnet_tiny_srf davit_tiny mvitv2_tiny sequencer2d_s hiera_tiny_224 tiny_vit_5m_224
    efficientvit_b0 efficientvit_m0 vgg11_bn res2net50_14w_8s res2next50 dm_nfnet_f0 vovnet39a
    haloregnetz_b sebotnet33ts_256
"""
TIMM = tuple(_TIMM.split())


def _timm(name: str) -> tuple[nn.Module, Shape]:
    load_torchvision()
    timm = importlib.import_module("timm")
    module = timm.create_model(name, pretrained=False)
    config = module.default_cfg
    fixed = config.get("fixed_input_size", False)
    least = max(config.get("min_input_size", (3, 96, 96))[1], 96)
    size = config["input_size"][1] if fixed else least
    return module, (3, size, size)


# --- segmentation_models_pytorch ----------------------------------------------------------------

_SMP_HEADS = """
    Unet UnetPlusPlus MAnet Linknet FPN PSPNet PAN DeepLabV3 DeepLabV3Plus UPerNet Segformer
"""
SMP_HEADS = tuple(_SMP_HEADS.split())
SMP_ENCODERS = ("resnet18", "mobilenet_v2", "efficientnet-b0", "timm-mobilenetv3_small_075")
SMP = (
    *(f"{head}-resnet18" for head in SMP_HEADS),
    *(f"{head}-mobilenet_v2" for head in ("Unet", "FPN", "DeepLabV3Plus", "PSPNet")),
    *(f"Unet-{encoder}" for encoder in SMP_ENCODERS[2:]),
    "Unet-mit_b0",
    "Unet-resnet18-scse",
)


def _smp(name: str) -> tuple[nn.Module, Shape]:
    load_torchvision()
    smp = importlib.import_module("segmentation_models_pytorch")
    head, encoder = name.split("-", 1)
    options = {}
    if encoder.endswith("-scse"):
        encoder, options = encoder.removesuffix("-scse"), {"decoder_attention_type": "scse"}
    make, size = getattr(smp, head), {"PSPNet": 96, "PAN": 128, "UPerNet": 192}.get(head, 64)
    return make(encoder_name=encoder, encoder_weights=None, classes=3, **options), (3, size, size)


# --- ultralytics --------------------------------------------------------------------------------

_YOLO = """
    yolov3-tiny yolov5n yolov6n yolov8n yolov8n-seg yolov8n-pose yolov8n-obb yolov8n-cls
    yolov8n-p2 yolov8n-ghost yolov9t yolov10n yolo11n yolo11n-seg yolo11n-pose yolo11n-obb
    yolo11n-cls yolo12n yolo26n yolo26n-seg rtdetr-resnet50
"""
YOLO = tuple(_YOLO.split())


def _ultralytics(name: str) -> tuple[nn.Module, Shape]:
    """Return a network as ultralytics' own exporter has it written."""
    load_torchvision()
    tasks = importlib.import_module("ultralytics.nn.tasks")
    task = next((part for part in ("seg", "pose", "obb", "cls") if f"-{part}" in name), "detect")
    kind = {
        "detect": "DetectionModel",
        "seg": "SegmentationModel",
        "pose": "PoseModel",
        "obb": "OBBModel",
        "cls": "ClassificationModel",
    }[task]
    if name.startswith("rtdetr"):
        kind = "RTDETRDetectionModel"
    module = getattr(tasks, kind)(f"{name}.yaml", verbose=False)
    for part in module.modules():
        if hasattr(part, "export"):  # Heads.
            part.dynamic, part.export, part.format = False, True, "onnx"
        elif type(part).__name__ == "C2f":
            part.forward = part.forward_split
    return module, (3, 64, 64)


FAMILIES: dict[str, Family] = {
    "handwritten": Family(tuple(HANDWRITTEN), _handwritten),
    "torchvision": Family((*CLASSIFIERS, *SEGMENTERS), _torchvision),
    "ultralytics": Family(YOLO, _ultralytics),
    "segmentation": Family(SMP, _smp),
    "timm": Family(TIMM, _timm),
}


def build(family: str, name: str) -> tuple[nn.Module, Shape]:
    """Return a network in evaluation mode, random weights of one seed, and its input's shape."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, shape = FAMILIES[family].build(name)
    return module.eval(), shape
