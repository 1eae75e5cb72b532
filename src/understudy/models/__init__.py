"""Networks by name: timm, torchvision, the field's CIFAR networks, and anyone's own."""

from understudy.models import (  # these register the cifar_* networks with timm
    cifar_imagenet_resnet,
    cifar_mobilenetv2,
    cifar_resnet,
    cifar_shufflenetv1,
    cifar_shufflenetv2,
    cifar_vgg,
    cifar_wrn,
    tiny_mobilenetv2,
)
from understudy.models.cost import Cost, cost_of, count_macs, count_parameters, images_per_second, latency_ms, median_ms
from understudy.models.create import create_model
from understudy.models.key_maps import published_keys, save_published
from understudy.models.names import known_names
from understudy.models.network import Network, Prepare, in_format, network_of
from understudy.models.students import load_student, load_student_network, save_student
from understudy.models.weights import load_weights, read_state_dict

__all__ = [
    "Cost",
    "Network",
    "Prepare",
    "cifar_imagenet_resnet",
    "cifar_mobilenetv2",
    "cifar_resnet",
    "cifar_shufflenetv1",
    "cifar_shufflenetv2",
    "cifar_vgg",
    "cifar_wrn",
    "cost_of",
    "count_macs",
    "count_parameters",
    "create_model",
    "images_per_second",
    "in_format",
    "known_names",
    "latency_ms",
    "load_student",
    "load_student_network",
    "load_weights",
    "median_ms",
    "network_of",
    "published_keys",
    "read_state_dict",
    "save_published",
    "save_student",
    "tiny_mobilenetv2",
]
