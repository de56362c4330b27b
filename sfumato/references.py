"""The papers that sfumato's methods come from, by key, and as BibTeX."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.errors import UnknownName


@dataclass(frozen=True)
class Paper:
    """A paper: authors as BibTeX has them, title, year, and where it is found (an arXiv number or a venue)."""

    authors: str
    title: str
    year: int
    where: str


PAPERS: dict[str, Paper] = {
    "anderson1982reverse": Paper(
        "Anderson, Brian D. O.",
        "Reverse-time diffusion equation models",
        1982,
        "Stochastic Processes and their Applications 12(3)",
    ),
    "ho2020ddpm": Paper(
        "Ho, Jonathan and Jain, Ajay and Abbeel, Pieter",
        "Denoising Diffusion Probabilistic Models",
        2020,
        "2006.11239",
    ),
    "song2021ddim": Paper(
        "Song, Jiaming and Meng, Chenlin and Ermon, Stefano",
        "Denoising Diffusion Implicit Models",
        2021,
        "2010.02502",
    ),
    "song2021sde": Paper(
        "Song, Yang and Sohl-Dickstein, Jascha and Kingma, Diederik P. and Kumar, Abhishek and Ermon, Stefano "
        "and Poole, Ben",
        "Score-Based Generative Modeling through Stochastic Differential Equations",
        2021,
        "2011.13456",
    ),
    "karras2022edm": Paper(
        "Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli",
        "Elucidating the Design Space of Diffusion-Based Generative Models",
        2022,
        "2206.00364",
    ),
    "lu2022dpm": Paper(
        "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun",
        "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps",
        2022,
        "2206.00927",
    ),
    "lu2022dpmpp": Paper(
        "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun",
        "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
        2022,
        "2211.01095",
    ),
    "liu2022flow": Paper(
        "Liu, Xingchao and Gong, Chengyue and Liu, Qiang",
        "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
        2022,
        "2209.03003",
    ),
    "esser2024sd3": Paper(
        "Esser, Patrick and Kulal, Sumith and Blattmann, Andreas and others",
        "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
        2024,
        "2403.03206",
    ),
    "ho2022cfg": Paper(
        "Ho, Jonathan and Salimans, Tim",
        "Classifier-Free Diffusion Guidance",
        2022,
        "2207.12598",
    ),
    "li2020scalable": Paper(
        "Li, Xuechen and Wong, Ting-Kam Leonard and Chen, Ricky T. Q. and Duvenaud, David",
        "Scalable Gradients for Stochastic Differential Equations",
        2020,
        "2001.01328",
    ),
    "salmon2011random": Paper(
        "Salmon, John K. and Moraes, Mark A. and Dror, Ron O. and Shaw, David E.",
        "Parallel Random Numbers: As Easy as 1, 2, 3",
        2011,
        "International Conference for High Performance Computing, Networking, Storage and Analysis (SC)",
    ),
    "dhariwal2021beat": Paper(
        "Dhariwal, Prafulla and Nichol, Alex",
        "Diffusion Models Beat GANs on Image Synthesis",
        2021,
        "2105.05233",
    ),
    "saharia2022imagen": Paper(
        "Saharia, Chitwan and Chan, William and Saxena, Saurabh and Li, Lala and Whang, Jay and others",
        "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding",
        2022,
        "2205.11487",
    ),
    "liu2022composable": Paper(
        "Liu, Nan and Li, Shuang and Du, Yilun and Torralba, Antonio and Tenenbaum, Joshua B.",
        "Compositional Visual Generation with Composable Diffusion Models",
        2022,
        "2206.01714",
    ),
    "levin2023differential": Paper(
        "Levin, Eran and Fried, Ohad",
        "Differential Diffusion: Giving Each Pixel Its Strength",
        2023,
        "2306.00950",
    ),
    "lin2024flawed": Paper(
        "Lin, Shanchuan and Liu, Bingchen and Li, Jiashi and Yang, Xiao",
        "Common Diffusion Noise Schedules and Sample Steps are Flawed",
        2024,
        "2305.08891",
    ),
    "kynkaanniemi2024interval": Paper(
        'Kynk{\\"a}{\\"a}nniemi, Tuomas and Aittala, Miika and Karras, Tero and Laine, Samuli and Aila, Timo '
        "and Lehtinen, Jaakko",
        "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models",
        2024,
        "2404.07724",
    ),
    "karras2024autoguidance": Paper(
        'Karras, Tero and Aittala, Miika and Kynk{\\"a}{\\"a}nniemi, Tuomas and Lehtinen, Jaakko and Aila, Timo '
        "and Laine, Samuli",
        "Guiding a Diffusion Model with a Bad Version of Itself",
        2024,
        "2406.02507",
    ),
    "chung2024cfgpp": Paper(
        "Chung, Hyungjin and Kim, Jeongsol and Park, Geon Yeong and Nam, Hyelin and Ye, Jong Chul",
        "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models",
        2024,
        "2406.08070",
    ),
    "sadat2024apg": Paper(
        "Sadat, Seyedmorteza and Hilliges, Otmar and Weber, Romann M.",
        "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models",
        2024,
        "2410.02416",
    ),
    "fan2025zerostar": Paper(
        "Fan, Weichen and Zheng, Amber Yijia and Yeh, Raymond A. and Liu, Ziwei",
        "CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models",
        2025,
        "2503.18886",
    ),
}
"""Every paper that something of sfumato cites, by key."""


def bibtex(key: str) -> str:
    """The BibTeX entry of the paper ``key``; UnknownName with the nearest keys otherwise."""
    if key not in PAPERS:
        raise UnknownName("reference", key, PAPERS)
    paper = PAPERS[key]
    lines = [
        f"  author = {{{paper.authors}}},",
        f"  title = {{{paper.title}}},",
        f"  year = {{{paper.year}}},",
    ]
    if paper.where[:4].isdigit() and paper.where[4:5] == ".":
        lines += [f"  eprint = {{{paper.where}}},", "  archivePrefix = {arXiv},"]
        kind = "misc"
    else:
        lines.append(f"  journal = {{{paper.where}}},")
        kind = "article"
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])
