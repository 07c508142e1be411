"""The papers of the built-in methods: `OF_METHOD` by name, for registration and for cards."""

from __future__ import annotations

from collections.abc import Mapping

from fewshot_bench import Paper
from fewshot_bench.backbones import papers_of_weights

_GITHUB = "https://github.com"
_ARXIV = "https://arxiv.org/abs"

# Of methods without a paper of their own.
CLIP = papers_of_weights("ViT-B-16/openai")
ADALORA = Paper(
    "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning",
    (
        *("Qingru Zhang", "Minshuo Chen", "Alexander Bukharin", "Pengcheng He", "Yu Cheng"),
        *("Weizhu Chen", "Tuo Zhao"),
    ),
    2023,
    venue="ICLR",
    url="https://openreview.net/forum?id=lq62uWRJjiY",
    code=f"{_GITHUB}/QingruZhang/AdaLoRA",
)
APE = Paper(
    "Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement",
    (
        *("Xiangyang Zhu", "Renrui Zhang", "Bowei He", "Aojun Zhou", "Dong Wang", "Bin Zhao"),
        "Peng Gao",
    ),
    2023,
    venue="ICCV",
    url=f"{_ARXIV}/2304.01195",
    code=f"{_GITHUB}/yangyangyang127/APE",
)
BITFIT = Paper(
    "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
    ("Ben Zaken, Elad", "Yoav Goldberg", "Shauli Ravfogel"),
    2022,
    venue="ACL",
    url=f"{_ARXIV}/2106.10199",
    code=f"{_GITHUB}/benzakenelad/BitFit",
)
CLAP = Paper(
    "A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models",
    ("Julio Silva-Rodríguez", "Sina Hajimiri", "Ben Ayed, Ismail", "Jose Dolz"),
    2024,
    venue="CVPR",
    url=f"{_ARXIV}/2312.12730",
    code=f"{_GITHUB}/jusiro/CLAP",
)
CLIP_ADAPTER = Paper(
    "CLIP-Adapter: Better Vision-Language Models with Feature Adapters",
    (
        *("Peng Gao", "Shijie Geng", "Renrui Zhang", "Teli Ma", "Rongyao Fang"),
        *("Yongfeng Zhang", "Hongsheng Li", "Yu Qiao"),
    ),
    2024,
    venue="IJCV",
    url=f"{_ARXIV}/2110.04544",
    code=f"{_GITHUB}/gaopengcuhk/CLIP-Adapter",
)
CLIP_LORA = Paper(
    "Low-Rank Few-Shot Adaptation of Vision-Language Models",
    ("Maxime Zanella", "Ben Ayed, Ismail"),
    2024,
    venue="CVPR Workshops",
    url=f"{_ARXIV}/2405.18541",
    code=f"{_GITHUB}/MaxZanella/CLIP-LoRA",
)
CLIP_SVD = Paper(
    "Singular Value Few-shot Adaptation of Vision-Language Models",
    ("Taha Koleilat", "Hassan Rivaz", "Yiming Xiao"),
    2025,
    venue="arXiv",
    url=f"{_ARXIV}/2509.03740",
    code=f"{_GITHUB}/HealthX-Lab/CLIP-SVD",
)
COCOOP = Paper(
    "Conditional Prompt Learning for Vision-Language Models",
    ("Kaiyang Zhou", "Jingkang Yang", "Loy, Chen Change", "Ziwei Liu"),
    2022,
    venue="CVPR",
    url=f"{_ARXIV}/2203.05557",
    code=f"{_GITHUB}/KaiyangZhou/CoOp",
)
COOP = Paper(
    "Learning to Prompt for Vision-Language Models",
    ("Kaiyang Zhou", "Jingkang Yang", "Loy, Chen Change", "Ziwei Liu"),
    2022,
    venue="IJCV",
    url=f"{_ARXIV}/2109.01134",
    code=f"{_GITHUB}/KaiyangZhou/CoOp",
)
CROSS_MODAL = Paper(
    "Multimodality Helps Unimodality: Cross-Modal Few-Shot Learning with Multimodal Models",
    ("Zhiqiu Lin", "Samuel Yu", "Zhiyi Kuang", "Deepak Pathak", "Deva Ramanan"),
    2023,
    venue="CVPR",
    url=f"{_ARXIV}/2301.06267",
    code=f"{_GITHUB}/linzhiqiu/cross_modal_adaptation",
)
DORA = Paper(
    "DoRA: Weight-Decomposed Low-Rank Adaptation",
    (
        *("Shih-Yang Liu", "Chien-Yi Wang", "Hongxu Yin", "Pavlo Molchanov"),
        *("Wang, Yu-Chiang Frank", "Kwang-Ting Cheng", "Min-Hung Chen"),
    ),
    2024,
    venue="ICML",
    url=f"{_ARXIV}/2402.09353",
    code=f"{_GITHUB}/NVlabs/DoRA",
)
GDA = Paper(
    "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation",
    ("Zhengbo Wang", "Jian Liang", "Lijun Sheng", "Ran He", "Zilei Wang", "Tieniu Tan"),
    2024,
    venue="ICLR",
    url="https://openreview.net/forum?id=Js5PJPHDyY",
    code=f"{_GITHUB}/mrflogs/ICLR24",
)
KGCOOP = Paper(
    "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization",
    ("Hantao Yao", "Rui Zhang", "Changsheng Xu"),
    2023,
    venue="CVPR",
    url=f"{_ARXIV}/2303.13283",
    code=f"{_GITHUB}/htyao89/KgCoOp",
)
LP_PLUS_PLUS = Paper(
    "LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP",
    (
        *("Yunshi Huang", "Fereshteh Shakeri", "Jose Dolz", "Malik Boudiaf", "Houda Bahig"),
        "Ben Ayed, Ismail",
    ),
    2024,
    venue="CVPR",
    url=f"{_ARXIV}/2404.02285",
    code=f"{_GITHUB}/FereshteShakeri/FewShot-CLIP-Strong-Baseline",
)
MAPLE = Paper(
    "MaPLe: Multi-modal Prompt Learning",
    (
        *("Khattak, Muhammad Uzair", "Hanoona Rasheed", "Muhammad Maaz", "Salman Khan"),
        "Khan, Fahad Shahbaz",
    ),
    2023,
    venue="CVPR",
    url=f"{_ARXIV}/2210.03117",
    code=f"{_GITHUB}/muzairkhattak/multimodal-prompt-learning",
)
MMA = Paper(
    "MMA: Multi-Modal Adapter for Vision-Language Models",
    ("Lingxiao Yang", "Ru-Yuan Zhang", "Yanchen Wang", "Xiaohua Xie"),
    2024,
    venue="CVPR",
    url="https://openaccess.thecvf.com/content/CVPR2024/papers/"
    "Yang_MMA_Multi-Modal_Adapter_for_Vision-Language_Models_CVPR_2024_paper.pdf",
    code=f"{_GITHUB}/ZjjConan/Multi-Modal-Adapter",
)
MMRL = Paper(
    "MMRL: Multi-Modal Representation Learning for Vision-Language Models",
    ("Yuncheng Guo", "Xiaodong Gu"),
    2025,
    venue="CVPR",
    url=f"{_ARXIV}/2503.08497",
    code=f"{_GITHUB}/yunncheng/MMRL",
)
MTA = Paper(
    "On the Test-Time Zero-Shot Generalization of Vision-Language Models: Do We Really Need "
    "Prompt Learning?",
    ("Maxime Zanella", "Ben Ayed, Ismail"),
    2024,
    venue="CVPR",
    url=f"{_ARXIV}/2405.02266",
    code=f"{_GITHUB}/MaxZanella/MTA",
)
PLOT = Paper(
    "PLOT: Prompt Learning with Optimal Transport for Vision-Language Models",
    (
        *("Guangyi Chen", "Weiran Yao", "Xiangchen Song", "Xinyue Li", "Yongming Rao"),
        "Kun Zhang",
    ),
    2023,
    venue="ICLR",
    url=f"{_ARXIV}/2210.01253",
    code=f"{_GITHUB}/CHENGY12/PLOT",
)
PROGRAD = Paper(
    "Prompt-aligned Gradient for Prompt Tuning",
    ("Beier Zhu", "Yulei Niu", "Yucheng Han", "Yue Wu", "Hanwang Zhang"),
    2023,
    venue="ICCV",
    url=f"{_ARXIV}/2205.14865",
    code=f"{_GITHUB}/BeierZhu/Prompt-align",
)
PROKER = Paper(
    "ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language Models",
    ("Yassir Bendou", "Amine Ouasfi", "Vincent Gripon", "Adnane Boukhayma"),
    2025,
    venue="CVPR",
    url=f"{_ARXIV}/2501.11175",
    code=f"{_GITHUB}/ybendou/ProKeR",
)
PROLIP = Paper(
    "CLIP's Visual Embedding Projector is a Few-shot Cornucopia",
    ("Mohammad Fahes", "Tuan-Hung Vu", "Andrei Bursuc", "Patrick Pérez", "Raoul de Charette"),
    2025,
    venue="arXiv",
    url=f"{_ARXIV}/2410.05270",
    code=f"{_GITHUB}/astra-vision/ProLIP",
)
PROMPTSRC = Paper(
    "Self-regulating Prompts: Foundational Model Adaptation without Forgetting",
    (
        *("Khattak, Muhammad Uzair", "Wasim, Syed Talal", "Muzammal Naseer", "Salman Khan"),
        *("Ming-Hsuan Yang", "Khan, Fahad Shahbaz"),
    ),
    2023,
    venue="ICCV",
    url=f"{_ARXIV}/2307.06948",
    code=f"{_GITHUB}/muzairkhattak/PromptSRC",
)
STATA = Paper(
    "Realistic Test-Time Adaptation of Vision-Language Models",
    ("Maxime Zanella", "Clément Fuchs", "De Vleeschouwer, Christophe", "Ben Ayed, Ismail"),
    2025,
    venue="CVPR",
    url=f"{_ARXIV}/2501.03729",
    code=f"{_GITHUB}/MaxZanella/StatA",
)
TASKRES = Paper(
    "Task Residual for Tuning Vision-Language Models",
    ("Tao Yu", "Zhihe Lu", "Xin Jin", "Zhibo Chen", "Xinchao Wang"),
    2023,
    venue="CVPR",
    url=f"{_ARXIV}/2211.10277",
    code=f"{_GITHUB}/geekyutao/TaskRes",
)
TCP = Paper(
    "TCP: Textual-based Class-aware Prompt tuning for Visual-Language Model",
    ("Hantao Yao", "Rui Zhang", "Changsheng Xu"),
    2024,
    venue="CVPR",
    url=f"{_ARXIV}/2311.18231",
    code=f"{_GITHUB}/htyao89/Textual-based_Class-aware_prompt_tuning",
)
TDA = Paper(
    "Efficient Test-Time Adaptation of Vision-Language Models",
    (
        *("Adilbek Karmanov", "Dayan Guan", "Shijian Lu", "El Saddik, Abdulmotaleb"),
        "Eric Xing",
    ),
    2024,
    venue="CVPR",
    url=f"{_ARXIV}/2403.18293",
    code=f"{_GITHUB}/kdiAAA/TDA",
)
TIP_ADAPTER = Paper(
    "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification",
    (
        *("Renrui Zhang", "Wei Zhang", "Rongyao Fang", "Peng Gao", "Kunchang Li", "Jifeng Dai"),
        *("Yu Qiao", "Hongsheng Li"),
    ),
    2022,
    venue="ECCV",
    url=f"{_ARXIV}/2207.09519",
    code=f"{_GITHUB}/gaopengcuhk/Tip-Adapter",
)
TPT = Paper(
    "Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models",
    (
        *("Manli Shu", "Weili Nie", "De-An Huang", "Zhiding Yu", "Tom Goldstein"),
        *("Anima Anandkumar", "Chaowei Xiao"),
    ),
    2022,
    venue="NeurIPS",
    url=f"{_ARXIV}/2209.07511",
    code=f"{_GITHUB}/azshue/TPT",
)
TRANSCLIP = Paper(
    "Boosting Vision-Language Models with Transduction",
    ("Maxime Zanella", "Benoît Gérin", "Ben Ayed, Ismail"),
    2024,
    venue="NeurIPS",
    url=f"{_ARXIV}/2406.01837",
    code=f"{_GITHUB}/MaxZanella/transduction-for-vlms",
)
TRANSDUCTIVE_CLIP = Paper(
    "Transductive Zero-Shot and Few-Shot CLIP",
    (
        *("Ségolène Martin", "Yunshi Huang", "Fereshteh Shakeri", "Jean-Christophe Pesquet"),
        "Ben Ayed, Ismail",
    ),
    2024,
    venue="CVPR",
    url=f"{_ARXIV}/2405.18437",
    code=f"{_GITHUB}/SegoleneMartin/transductive-CLIP",
)
TWO_STAGES = Paper(
    "Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages",
    ("Matteo Farina", "Massimiliano Mancini", "Giovanni Iacca", "Elisa Ricci"),
    2025,
    venue="CVPR",
    url=f"{_ARXIV}/2503.11609",
    code=f"{_GITHUB}/FarinaMatteo/rethinking_fewshot_vlms",
)
VPT = Paper(
    "Visual Prompt Tuning",
    (
        *("Menglin Jia", "Luming Tang", "Bor-Chun Chen", "Claire Cardie", "Serge Belongie"),
        *("Bharath Hariharan", "Ser-Nam Lim"),
    ),
    2022,
    venue="ECCV",
    url=f"{_ARXIV}/2203.12119",
    code=f"{_GITHUB}/KMnP/vpt",
)
WISE_FT = Paper(
    "Robust fine-tuning of zero-shot models",
    (
        *("Mitchell Wortsman", "Gabriel Ilharco", "Kim, Jong Wook", "Mike Li", "Simon Kornblith"),
        *("Rebecca Roelofs", "Raphael Gontijo-Lopes", "Hannaneh Hajishirzi", "Ali Farhadi"),
        *("Hongseok Namkoong", "Ludwig Schmidt"),
    ),
    2022,
    venue="CVPR",
    url=f"{_ARXIV}/2109.01903",
    code=f"{_GITHUB}/mlfoundations/wise-ft",
)
ZERO = Paper(
    "Frustratingly Easy Test-Time Adaptation of Vision-Language Models",
    (
        *("Matteo Farina", "Gianni Franchi", "Giovanni Iacca", "Massimiliano Mancini"),
        "Elisa Ricci",
    ),
    2024,
    venue="NeurIPS",
    url=f"{_ARXIV}/2405.18330",
    code=f"{_GITHUB}/FarinaMatteo/zero",
)
ZLAP = Paper(
    "Label Propagation for Zero-shot Classification with Vision-Language Models",
    ("Vladan Stojnić", "Yannis Kalantidis", "Giorgos Tolias"),
    2024,
    venue="CVPR",
    url=f"{_ARXIV}/2404.04072",
    code=f"{_GITHUB}/vladan-stojnic/ZLaP",
)

# What each registered method cites.
OF_METHOD: Mapping[str, Paper | tuple[Paper, ...]] = {
    "zero-shot": CLIP,
    "transclip": TRANSCLIP,
    "stata": STATA,
    "linear-probe": (*CLIP, COOP),
    "tip-adapter": TIP_ADAPTER,
    "tip-adapter-f": TIP_ADAPTER,
    "coop": COOP,
    "cocoop": COCOOP,
    "kgcoop": KGCOOP,
    "prograd": PROGRAD,
    "clip-lora": CLIP_LORA,
    "dora": DORA,
    "adalora": ADALORA,
    "ln-tuning": TWO_STAGES,
    "bitfit": (BITFIT, TWO_STAGES),
    "2sfs": TWO_STAGES,
    "clip-svd": CLIP_SVD,
    "prolip": PROLIP,
    "clip-adapter": CLIP_ADAPTER,
    "taskres": TASKRES,
    "lp++": LP_PLUS_PLUS,
    "gda": GDA,
    "zs-lp": CLAP,
    "clap": CLAP,
    "proker": PROKER,
    "cross-modal": CROSS_MODAL,
    "wise-ft": WISE_FT,
    "mma": MMA,
    "tcp": TCP,
    "mmrl": MMRL,
    "full-ft": WISE_FT,
    "vpt-deep": VPT,
    "vpt-shallow": VPT,
    "ivlp": (MAPLE, PROMPTSRC),
    "maple": MAPLE,
    "promptsrc": PROMPTSRC,
    "plot++": PLOT,
    "tpt": TPT,
    "mta": MTA,
    "zero": ZERO,
    "tda": TDA,
    "zlap": ZLAP,
    "em-dirichlet": TRANSDUCTIVE_CLIP,
    "hard-em-dirichlet": TRANSDUCTIVE_CLIP,
    "ape": APE,
    "ape-t": APE,
}
