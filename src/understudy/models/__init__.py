"""Networks by name: timm, torchvision, the field's CIFAR networks, and anyone's own."""

from understudy.models import cifar_resnet  # registers the cifar_* networks with timm
from understudy.models.cost import Cost, cost_of, count_macs, count_parameters, images_per_second, latency_ms, median_ms
from understudy.models.create import create_model
from understudy.models.names import known_names
from understudy.models.network import Network, Prepare, network_of
from understudy.models.students import load_student, load_student_network, save_student
from understudy.models.weights import load_weights, read_state_dict

__all__ = [
    "Cost",
    "Network",
    "Prepare",
    "cifar_resnet",
    "cost_of",
    "count_macs",
    "count_parameters",
    "create_model",
    "images_per_second",
    "known_names",
    "latency_ms",
    "load_student",
    "load_student_network",
    "load_weights",
    "median_ms",
    "network_of",
    "read_state_dict",
    "save_student",
]
