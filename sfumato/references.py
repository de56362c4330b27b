"""The papers that sfumato's methods come from, by key, and as BibTeX."""

from __future__ import annotations

from sfumato.errors import UnknownName
from sfumato.papers import MODELS, Paper

PAPERS: dict[str, Paper] = {
    **MODELS,
    "ahn2024pag": Paper(
        "Ahn, Donghoon and Cho, Hyoungwon and Min, Jaewon and Jang, Wooseok and Kim, Jungwoo and Kim, SeonHwa and "
        "Park, Hyun Hee and Jin, Kyong Hwan and Kim, Seungryong",
        "Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance",
        2024,
        "2403.17377",
    ),
    "lugmayr2022repaint": Paper(
        "Lugmayr, Andreas and Danelljan, Martin and Romero, Andres and Yu, Fisher and Timofte, Radu and Van Gool, Luc",
        "RePaint: Inpainting using Denoising Diffusion Probabilistic Models",
        2022,
        "2201.09865",
    ),
    "hong2024seg": Paper(
        "Hong, Susung",
        "Smoothed Energy Guidance: Guiding Diffusion Models with Reduced Energy Curvature of Attention",
        2024,
        "2408.00760",
    ),
    "hyung2024stg": Paper(
        "Hyung, Junha and Kim, Kinam and Hong, Susung and Kim, Min-Jung and Choo, Jaegul",
        "Spatiotemporal Skip Guidance for Enhanced Video Diffusion Sampling",
        2024,
        "2411.18664",
    ),
    "hertz2024stylealigned": Paper(
        "Hertz, Amir and Voynov, Andrey and Fruchter, Shlomi and Cohen-Or, Daniel",
        "Style Aligned Image Generation via Shared Attention",
        2024,
        "2312.02133",
    ),
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
    "meng2021sdedit": Paper(
        "Meng, Chenlin and He, Yutong and Song, Yang and Song, Jiaming and Wu, Jiajun and Zhu, Jun-Yan and "
        "Ermon, Stefano",
        "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations",
        2021,
        "2108.01073",
    ),
    "bartal2023multidiffusion": Paper(
        "Bar-Tal, Omer and Yariv, Lior and Lipman, Yaron and Dekel, Tali",
        "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation",
        2023,
        "2302.08113",
    ),
    "shoemake1985slerp": Paper(
        "Shoemake, Ken",
        "Animating rotation with quaternion curves",
        1985,
        "SIGGRAPH Computer Graphics 19(3)",
    ),
    "gortler1996lumigraph": Paper(
        "Gortler, Steven J. and Grzeszczuk, Radek and Szeliski, Richard and Cohen, Michael F.",
        "The Lumigraph",
        1996,
        "SIGGRAPH",
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
    "crowson2022kdiffusion": Paper(
        "Crowson, Katherine",
        "k-diffusion: Karras et al. (2022) diffusion models for PyTorch",
        2022,
        "github.com/crowsonkb/k-diffusion",
    ),
    "song2023consistency": Paper(
        "Song, Yang and Dhariwal, Prafulla and Chen, Mark and Sutskever, Ilya",
        "Consistency Models",
        2023,
        "2303.01469",
    ),
    "xu2023restart": Paper(
        "Xu, Yilun and Deng, Mingyang and Cheng, Xiang and Tian, Yonglong and Liu, Ziming and Jaakkola, Tommi",
        "Restart Sampling for Improving Generative Processes",
        2023,
        "2306.14878",
    ),
    "xue2023sa": Paper(
        "Xue, Shuchen and Yi, Mingyang and Luo, Weijian and Zhang, Shifeng and Sun, Jiacheng and Li, Zhenguo "
        "and Ma, Zhi-Ming",
        "SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models",
        2023,
        "2309.05019",
    ),
    "cui2023ersde": Paper(
        "Cui, Qinpeng and Zhang, Xinyi and Lu, Zongqing and Liao, Qingmin",
        "Elucidating the solution space of extended reverse-time SDE for diffusion models",
        2023,
        "2309.06169",
    ),
    "luo2023lcm": Paper(
        "Luo, Simian and Tan, Yiqin and Huang, Longbo and Li, Jian and Zhao, Hang",
        "Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step Inference",
        2023,
        "2310.04378",
    ),
    "lu2024scm": Paper(
        "Lu, Cheng and Song, Yang",
        "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models",
        2024,
        "2410.11081",
    ),
    "zheng2024tcd": Paper(
        "Zheng, Jianbin and Hu, Minghui and Fan, Zhongyi and Wang, Chaoyue and Ding, Changxing and Tao, Dacheng "
        "and Cham, Tat-Jen",
        "Trajectory Consistency Distillation",
        2024,
        "2402.19159",
    ),
    "liu2022flow": Paper(
        "Liu, Xingchao and Gong, Chengyue and Liu, Qiang",
        "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
        2022,
        "2209.03003",
    ),
    "hairer1993ode": Paper(
        "Hairer, Ernst and N{\\o}rsett, Syvert P. and Wanner, Gerhard",
        "Solving Ordinary Differential Equations I: Nonstiff Problems",
        1993,
        "Springer Series in Computational Mathematics 8, second edition",
    ),
    "liu2022pndm": Paper(
        "Liu, Luping and Ren, Yi and Lin, Zhijie and Zhao, Zhou",
        "Pseudo Numerical Methods for Diffusion Models on Manifolds",
        2022,
        "2202.09778",
    ),
    "zhang2023deis": Paper(
        "Zhang, Qinsheng and Chen, Yongxin",
        "Fast Sampling of Diffusion Models with Exponential Integrator",
        2023,
        "2204.13902",
    ),
    "zhao2023unipc": Paper(
        "Zhao, Wenliang and Bai, Lujia and Rao, Yongming and Zhou, Jie and Lu, Jiwen",
        "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
        2023,
        "2302.04867",
    ),
    "zhang2023res": Paper(
        "Zhang, Qinsheng and Song, Jiaming and Chen, Yongxin",
        "Improved Order Analysis and Design of Exponential Integrator for Diffusion Models Sampling",
        2023,
        "2308.02157",
    ),
    "permenter2024interpreting": Paper(
        "Permenter, Frank and Yuan, Chenyang",
        "Interpreting and Improving Diffusion Models from an Optimization Perspective",
        2024,
        "2306.04848",
    ),
    "mokady2023null": Paper(
        "Mokady, Ron and Hertz, Amir and Aberman, Kfir and Pritch, Yael and Cohen-Or, Daniel",
        "Null-text Inversion for Editing Real Images using Guided Diffusion Models",
        2023,
        "2211.09794",
    ),
    "pan2023aidi": Paper(
        "Pan, Zhihong and Gherardi, Riccardo and Xie, Xiufeng and Huang, Stephen",
        "Effective Real Image Editing with Accelerated Iterative Diffusion Inversion",
        2023,
        "2309.04907",
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
    "chung2023dps": Paper(
        "Chung, Hyungjin and Kim, Jeongsol and Mccann, Michael T. and Klasky, Marc L. and Ye, Jong Chul",
        "Diffusion Posterior Sampling for General Noisy Inverse Problems",
        2023,
        "2209.14687",
    ),
    "song2023pigdm": Paper(
        "Song, Jiaming and Vahdat, Arash and Mardani, Morteza and Kautz, Jan",
        "Pseudoinverse-Guided Diffusion Models for Inverse Problems",
        2023,
        "International Conference on Learning Representations",
    ),
    "zhu2023diffpir": Paper(
        "Zhu, Yuanzhi and Zhang, Kai and Liang, Jingyun and Cao, Jiezhang and Wen, Bihan and Timofte, Radu and "
        "Van Gool, Luc",
        "Denoising Diffusion Models for Plug-and-Play Image Restoration",
        2023,
        "2305.08995",
    ),
    "rozet2024mmps": Paper(
        "Rozet, Fran{\\c{c}}ois and Andry, G{\\'e}r{\\^o}me and Lanusse, Fran{\\c{c}}ois and Louppe, Gilles",
        "Learning Diffusion Priors from Observations by Expectation Maximization",
        2024,
        "2405.13712",
    ),
    "theis2016note": Paper(
        'Theis, Lucas and van den Oord, A{\\"a}ron and Bethge, Matthias',
        "A note on the evaluation of generative models",
        2016,
        "1511.01844",
    ),
    "xu2022geodiff": Paper(
        "Xu, Minkai and Yu, Lantao and Song, Yang and Shi, Chence and Ermon, Stefano and Tang, Jian",
        "GeoDiff: a Geometric Diffusion Model for Molecular Conformation Generation",
        2022,
        "2203.02923",
    ),
    "salimans2022progressive": Paper(
        "Salimans, Tim and Ho, Jonathan",
        "Progressive Distillation for Fast Sampling of Diffusion Models",
        2022,
        "2202.00512",
    ),
    "hang2024improved": Paper(
        "Hang, Tiankai and Gu, Shuyang and Geng, Xin and Guo, Baining",
        "Improved Noise Schedule for Diffusion Training",
        2024,
        "2407.03297",
    ),
    "lee2024beta": Paper(
        "Lee, Haeil and Lee, Hansang and Gye, Seoyeon and Kim, Junmo",
        "Beta Sampling is All You Need: Efficient Image Generation Strategy for Diffusion Models using "
        "Stepwise Spectral Analysis",
        2024,
        "2407.12173",
    ),
    "sabour2024ays": Paper(
        "Sabour, Amirmojtaba and Fidler, Sanja and Kreis, Karsten",
        "Align Your Steps: Optimizing Sampling Schedules in Diffusion Models",
        2024,
        "2404.14507",
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
