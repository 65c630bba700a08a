"""Metadata, dependencies, extras and entry points; tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# `plugins/` is imported as `webssl_plugins`, `configs/` travels in the wheel as `webssl_configs`.
ROOMS = {"webssl_plugins": "plugins", "webssl_configs": "configs"}
# Whose models can be towers, or which train and test towers on their own tasks.
LIBRARIES = {
    "timm": ["timm>=1.0.31"],
    "transformers": ["transformers>=5.23"],
    "mmpretrain": ["onedl-mmpretrain>=1.3.6", "onedl-mmcv>=2.3.6", "torchvision"],
    "mmsegmentation": ["onedl-mmsegmentation>=1.4.2", "onedl-mmcv>=2.3.6", "torchvision"],
}


def packages() -> list[str]:
    """Lists the importable packages under their installed names."""
    found = find_packages(include=["webssl_toolbox", "webssl_toolbox.*"])
    for name, folder in ROOMS.items():
        found += [name, *(f"{name}.{sub}" for sub in find_packages(folder))]
    return found


setup(
    name="webssl-toolbox",
    version="0.1.0",
    description="Train image encoders, with or without language, from one config file",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    packages=packages(),
    package_dir=ROOMS,
    package_data={
        "webssl_configs": ["**/*.py"],
        "webssl_plugins.backbones": ["data/*"],
        "webssl_plugins.datasets": ["emoji_data/*", "class_names/*"],
    },
    install_requires=[
        "torch>=2.10",
        "numpy>=2",
        "onedl-mmengine>=0.10.12",
        "pluggy>=1.6",
        "safetensors>=0.5",
        "tokenizers>=0.21",
        "ftfy>=6.3",
        "simplejpeg>=1.9",
        "opencv-python-headless>=4.10",
        "pillow>=12.3",
        "resvg-py>=0.5",
        "rich>=13",
    ],
    extras_require={
        "tensorboard": ["tensorboard"],
        **LIBRARIES,
        "dev": [
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "mypy",
            "tensorboard",
            # What metrics and probes are compared with, and tables of embeddings.
            "scikit-learn",
            "scipy",
            "pyarrow",
            *(package for needs in LIBRARIES.values() for package in needs),
        ],
    },
    entry_points={"webssl_toolbox": ["builtin = webssl_plugins"]},
)
