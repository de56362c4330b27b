"""What a paper is, and those of networks; those of methods are in references.py, which has all of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A paper: authors as BibTeX has them, title, year, and where it is found (an arXiv number or a venue)."""

    authors: str
    title: str
    year: int
    where: str


MODELS: dict[str, Paper] = {
    "brooks2023instructpix2pix": Paper(
        "Brooks, Tim and Holynski, Aleksander and Efros, Alexei A.",
        "InstructPix2Pix: Learning to Follow Image Editing Instructions",
        2023,
        "2211.09800",
    ),
    "stability2024sd35": Paper(
        "{Stability AI}",
        "Stable Diffusion 3.5, reference implementation (github.com/Stability-AI/sd3.5)",
        2024,
        "github.com/Stability-AI/sd3.5",
    ),
    "xie2024sana": Paper(
        "Xie, Enze and Chen, Junsong and Chen, Junyu and Cai, Han and Tang, Haotian and Lin, Yujun and Zhang, Zhekai "
        "and Li, Muyang and Zhu, Ligeng and Lu, Yao and Han, Song",
        "SANA: Efficient High-Resolution Image Synthesis with Linear Diffusion Transformers",
        2024,
        "2410.10629",
    ),
    "chen2024dcae": Paper(
        "Chen, Junyu and Cai, Han and Chen, Junsong and Xie, Enze and Yang, Shang and Tang, Haotian and Li, Muyang and "
        "Lu, Yao and Han, Song",
        "Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models",
        2024,
        "2410.10733",
    ),
    "esser2024sd3": Paper(
        "Esser, Patrick and Kulal, Sumith and Blattmann, Andreas and others",
        "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
        2024,
        "2403.03206",
    ),
    "dhariwal2021beat": Paper(
        "Dhariwal, Prafulla and Nichol, Alex",
        "Diffusion Models Beat GANs on Image Synthesis",
        2021,
        "2105.05233",
    ),
    "nichol2021improved": Paper(
        "Nichol, Alex and Dhariwal, Prafulla",
        "Improved Denoising Diffusion Probabilistic Models",
        2021,
        "2102.09672",
    ),
    "saharia2022imagen": Paper(
        "Saharia, Chitwan and Chan, William and Saxena, Saurabh and Li, Lala and Whang, Jay and others",
        "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding",
        2022,
        "2205.11487",
    ),
    "balaji2022ediffi": Paper(
        "Balaji, Yogesh and Nah, Seungjun and Huang, Xun and Vahdat, Arash and Song, Jiaming and Zhang, Qinsheng and "
        "Kreis, Karsten and Aittala, Miika and Aila, Timo and Laine, Samuli and Catanzaro, Bryan and Karras, Tero and "
        "Liu, Ming-Yu",
        "eDiff-I: Text-to-Image Diffusion Models with an Ensemble of Expert Denoisers",
        2022,
        "2211.01324",
    ),
    "rombach2022ldm": Paper(
        "Rombach, Robin and Blattmann, Andreas and Lorenz, Dominik and Esser, Patrick and Ommer, Bjorn",
        "High-Resolution Image Synthesis with Latent Diffusion Models",
        2022,
        "2112.10752",
    ),
    "polyak2024moviegen": Paper(
        "Polyak, Adam and Zohar, Amit and Brown, Andrew and others",
        "Movie Gen: A Cast of Media Foundation Models",
        2024,
        "2410.13720",
    ),
    "zimage2025": Paper(
        "{Z-Image Team}",
        "Z-Image: An Efficient Image Generation Foundation Model with Single-Stream Diffusion Transformer",
        2025,
        "2511.22699",
    ),
    "yang2025qwen3": Paper(
        "Yang, An and Li, Anfeng and Yang, Baosong and others",
        "Qwen3 Technical Report",
        2025,
        "2505.09388",
    ),
    "wang2020minilm": Paper(
        "Wang, Wenhui and Wei, Furu and Dong, Li and Bao, Hangbo and Yang, Nan and Zhou, Ming",
        "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
        2020,
        "2002.10957",
    ),
    "xie2025sana15": Paper(
        "Xie, Enze and Chen, Junsong and Zhao, Yuyang and Yu, Jincheng and Zhu, Ligeng and Lin, Yujun and "
        "Zhang, Zhekai and Li, Muyang and Chen, Junyu and Cai, Han and Liu, Bingchen and Zhou, Daquan and Han, Song",
        "SANA 1.5: Efficient Scaling of Training-Time and Inference-Time Compute in Linear Diffusion Transformer",
        2025,
        "2501.18427",
    ),
    "chen2025sprint": Paper(
        "Chen, Junsong and Xue, Shuchen and Zhao, Yuyang and Yu, Jincheng and Paul, Sayak and Chen, Junyu and Cai, Han "
        "and Xie, Enze and Han, Song",
        "SANA-Sprint: One-Step Diffusion with Continuous-Time Consistency Distillation",
        2025,
        "2503.09641",
    ),
    "cai2023efficientvit": Paper(
        "Cai, Han and Li, Junyan and Hu, Muyan and Gan, Chuang and Han, Song",
        "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
        2023,
        "2205.14756",
    ),
    "katharopoulos2020linear": Paper(
        "Katharopoulos, Angelos and Vyas, Apoorv and Pappas, Nikolaos and Fleuret, François",
        "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
        2020,
        "2006.16236",
    ),
}
"""Papers of models and of what their networks are made of."""
