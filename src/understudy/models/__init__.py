"""Networks by name: timm, torchvision, the field's CIFAR networks, and anyone's own."""

from understudy.models import involution as rednets
from understudy.models.cifar import imagenet_resnet as cifar_imagenet_resnet
from understudy.models.cifar import mobilenetv2 as cifar_mobilenetv2
from understudy.models.cifar import mobilenetv2_tiny as tiny_mobilenetv2
from understudy.models.cifar import resnet as cifar_resnet
from understudy.models.cifar import shufflenetv1 as cifar_shufflenetv1
from understudy.models.cifar import shufflenetv2 as cifar_shufflenetv2
from understudy.models.cifar import vgg as cifar_vgg
from understudy.models.cifar import wide_resnet as cifar_wrn
from understudy.models.cifar.published_keys import published_keys, save_published
from understudy.models.cost import Cost, cost_of, count_macs, count_parameters, images_per_second, latency_ms, median_ms
from understudy.models.create import create_model
from understudy.models.names import known_names
from understudy.models.network import Network, Prepare, in_format, network_of
from understudy.models.student_folder import load_student, load_student_network, save_student
from understudy.models.vit import co_advise as vit_co_advise
from understudy.models.vit import deit_conv as vit_deit_conv
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
    "rednets",
    "save_published",
    "save_student",
    "tiny_mobilenetv2",
    "vit_co_advise",
    "vit_deit_conv",
]
