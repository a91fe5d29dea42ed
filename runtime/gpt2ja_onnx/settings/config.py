"""Every setting of a generation, declared once; names and defaults are those of transformers.

A declaration is what the checks, the command line's options, the keyword types and the tables of
both READMEs are made from. docs/architecture.md says how to add one.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, Unpack, cast

from gpt2ja_onnx.errors import SettingError, UnknownSettingError
from gpt2ja_onnx.settings.kinds import (
    Callables,
    Choices,
    EarlyStopping,
    Flag,
    Kind,
    LengthDecay,
    Number,
    Schema,
    SequenceBiases,
    Source,
    Strings,
    TokenBiases,
    TokenIds,
    TokenLists,
    Whole,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpt2ja_onnx.settings.keywords import Settings
    from gpt2ja_onnx.settings.kinds import LogitsProcessor

_T = TypeVar("_T")
Group = Literal["length", "sampling", "penalties", "tokens", "form", "beams", "output"]
Use = Literal["all", "sampling", "beams"]
_FORMS = ("regex", "choices", "json_schema", "grammar")


class Declaration(NamedTuple):
    """What a setting is, beside its name, type and default.

    Attributes:
        kind: How its values are checked.
        en: What it does, in English.
        ja: The same in Japanese.
        group: What it is listed with.
        use: What it is for: every generation, drawing tokens, or beam search.
    """

    kind: Kind
    en: str
    ja: str
    group: Group
    use: Use = "all"


def setting(default: _T, kind: Kind, *, en: str, ja: str, group: Group, use: Use = "all") -> _T:
    """Declare a setting as the value of a field of `GenerationConfig`, or of a class below it."""
    declaration = Declaration(kind, en, ja, group, use)
    declared: _T = field(default=default, metadata={"declaration": declaration})
    return declared


@dataclass(frozen=True, slots=True, init=False, repr=False)
class GenerationConfig:
    """How text is continued; checked when it is made.

    Settings that are not given take the bundle's defaults where the config is used: see
    `GPT2Ja.defaults`. As attributes they show transformers' defaults.

    Example:
        >>> from gpt2ja_onnx import GenerationConfig
        >>> GenerationConfig(top_p=0.9, seed=1)
        GenerationConfig(top_p=0.9, seed=1)

    Raises:
        SettingError: A value is out of its range, or two settings exclude each other.
        UnknownSettingError: A name is no setting.
    """

    max_new_tokens: int = setting(
        20,
        Whole(1),
        en="Maximum number of tokens to generate; the context may end sooner.",
        ja="生成トークン数の上限（コンテキスト長に達すればそこで終了）",
        group="length",
    )
    min_new_tokens: int = setting(
        0,
        Whole(0),
        en="Minimum number of tokens: no end token is chosen before.",
        ja="このトークン数に達するまで終端トークンを選ばない",
        group="length",
    )
    stop: tuple[str, ...] = setting(
        (),
        Strings(),
        en="End right before one of these strings. They are normalised as the tokenizer "
        "normalises text (full-width forms become half-width).",
        ja="これらの文字列の直前で終了（トークナイザと同じ正規化を適用し、全角の英数字と記号は半角として扱う）",
        group="length",
    )
    eos_token_id: tuple[int, ...] | None = setting(
        None,
        TokenIds(optional=True),
        en="End tokens; without it the bundle's, and an empty list means none.",
        ja="終端トークン。省略時はバンドルの値、空リストは終端なし",
        group="length",
    )
    forced_eos_token_id: tuple[int, ...] = setting(
        (),
        TokenIds(),
        en="Tokens of which one must be the last when max_new_tokens is reached.",
        ja="max_new_tokens 到達時に最後のトークンとして強制するトークン",
        group="length",
    )
    exponential_decay_length_penalty: tuple[int, float] | None = setting(
        None,
        LengthDecay(),
        en="(start, factor): after start new tokens the end token's score grows by factor to the "
        "number of tokens since.",
        ja="(開始位置, 係数)：開始位置以降、終端トークンのスコアを係数の累乗で引き上げる",
        group="length",
    )
    do_sample: bool = setting(
        False,
        Flag(),
        en="Draw tokens; otherwise take the likeliest one.",
        ja="サンプリングする。しない場合は最も確率の高いトークンを選ぶ",
        group="sampling",
    )
    temperature: float = setting(
        1.0,
        Number(0, with_low=False),
        en="Divides the scores: below 1 sharper, above 1 flatter.",
        ja="スコアを割る値。1 未満で分布が鋭く、1 より大きいと平坦になる",
        group="sampling",
        use="sampling",
    )
    top_k: int = setting(
        50,
        Whole(0),
        en="Keep the k likeliest tokens, and those tied with the k-th; 0 keeps all.",
        ja="確率の高い上位 k トークンを残す（k 位と同点も残す）。0 はすべて",
        group="sampling",
        use="sampling",
    )
    top_p: float = setting(
        1.0,
        Number(0, 1, with_low=False),
        en="Keep the likeliest tokens whose probabilities sum to at least top_p "
        "(Holtzman et al., 2020); 1 keeps all.",
        ja="確率の合計が top_p に達するまで上位のトークンを残す（Holtzman ほか 2020）。1 はすべて",
        group="sampling",
        use="sampling",
    )
    min_p: float = setting(
        0.0,
        Number(0, 1),
        en="Keep tokens of at least min_p times the likeliest one's probability; 0 keeps all.",
        ja="最大確率の min_p 倍以上のトークンを残す。0 はすべて",
        group="sampling",
        use="sampling",
    )
    typical_p: float = setting(
        1.0,
        Number(0, 1, with_low=False),
        en="Keep the tokens nearest to the expected information (Meister et al., 2022); 1 keeps "
        "all.",
        ja="情報量が期待値に近いトークンを残す（Meister ほか 2022）。1 はすべて",
        group="sampling",
        use="sampling",
    )
    epsilon_cutoff: float = setting(
        0.0,
        Number(0, 1, with_high=False),
        en="Keep tokens of at least this probability (Hewitt et al., 2022); 0 keeps all.",
        ja="この確率以上のトークンを残す（Hewitt ほか 2022）。0 はすべて",
        group="sampling",
        use="sampling",
    )
    eta_cutoff: float = setting(
        0.0,
        Number(0, 1, with_high=False),
        en="As epsilon_cutoff, but lower where the distribution is flat (Hewitt et al., 2022); "
        "0 keeps all.",
        ja="epsilon_cutoff と同様だが、分布が平坦なほど閾値を下げる（Hewitt ほか 2022）。"
        "0 はすべて",
        group="sampling",
        use="sampling",
    )
    seed: int | None = setting(
        None,
        Whole(0, 2**64 - 1, optional=True),
        en="Seed of the random stream; each sequence has its own, keyed by (seed, its index). "
        "Without it one is drawn, which the result reports.",
        ja="乱数のシード。系列ごとに (シード, 系列番号) から独立した乱数列を作る。"
        "省略時は自動生成し、結果に記録する",
        group="sampling",
        use="sampling",
    )
    repetition_penalty: float = setting(
        1.0,
        Number(0, with_low=False),
        en="Divides the positive and multiplies the negative scores of tokens that stand in the "
        "prompt or the text (Keskar et al., 2019); 1 does nothing.",
        ja="プロンプトと生成文に出たトークンの正のスコアを割り、負のスコアに掛ける"
        "（Keskar ほか 2019）。1 は無効",
        group="penalties",
    )
    presence_penalty: float = setting(
        0.0,
        Number(-2, 2),
        en="Subtracted from the scores of tokens that stand in the text, without the prompt "
        "(OpenAI's definition).",
        ja="生成文に出たトークンのスコアから引く値（OpenAI の定義。プロンプトは含まない）",
        group="penalties",
    )
    frequency_penalty: float = setting(
        0.0,
        Number(-2, 2),
        en="Subtracted once for each time that a token stands in the text, without the prompt "
        "(OpenAI's definition).",
        ja="生成文での出現回数 1 回ごとにスコアから引く値（OpenAI の定義。プロンプトは含まない）",
        group="penalties",
    )
    no_repeat_ngram_size: int = setting(
        0,
        Whole(0),
        en="No sequence of so many tokens occurs twice; 0 allows all.",
        ja="この長さのトークン列の繰り返しを禁止。0 は無効",
        group="penalties",
    )
    logit_bias: tuple[tuple[int, float], ...] = setting(
        (),
        TokenBiases(100),
        en="Added to the scores of these tokens, from -100 to 100 (OpenAI's definition).",
        ja="指定トークンのスコアに加える値（-100 から 100、OpenAI の定義）",
        group="tokens",
    )
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = setting(
        (),
        SequenceBiases(),
        en="Added to the score of a token that would complete one of these sequences.",
        ja="指定トークン列を完成させるトークンのスコアに加える値",
        group="tokens",
    )
    bad_words_ids: tuple[tuple[int, ...], ...] = setting(
        (),
        TokenLists(),
        en="Token sequences that must not occur.",
        ja="出力を禁止するトークン ID 列",
        group="tokens",
    )
    suppress_tokens: tuple[int, ...] = setting(
        (),
        TokenIds(),
        en="Tokens that must not occur.",
        ja="出力を禁止するトークン ID",
        group="tokens",
    )
    logits_processors: tuple[LogitsProcessor, ...] = setting(
        (),
        Callables(),
        en="Functions of your own from a sequence's ids and all its scores to scores, called in "
        "every step; they need the whole vocabulary's scores.",
        ja="系列のトークン ID と全語彙のスコアを受け取りスコアを返す自作関数。毎ステップ呼ばれ、"
        "全語彙のスコアを必要とする",
        group="tokens",
    )
    regex: str | None = setting(
        None,
        Source(),
        en="The whole text matches this regular expression (Rust's syntax, without look-around).",
        ja="生成文全体がこの正規表現に一致する（Rust の構文。先読み・後読みは不可）",
        group="form",
    )
    choices: tuple[str, ...] = setting(
        (),
        Choices(),
        en="The text is one of these, normalised as the tokenizer normalises text.",
        ja="生成文をこのいずれかに限る（トークナイザと同じ正規化を適用）",
        group="form",
    )
    json_schema: str | None = setting(
        None,
        Schema(),
        en="The text is JSON of this schema, without white space between its parts; {} takes any "
        "JSON.",
        ja="生成文をこの JSON スキーマに従う JSON に限る（要素間の空白なし）。{} は任意の JSON",
        group="form",
    )
    grammar: str | None = setting(
        None,
        Source(),
        en="The text is one of this grammar (Lark's syntax as llguidance reads it).",
        ja="生成文をこの文法に限る（llguidance の Lark 構文）",
        group="form",
    )
    renormalize_logits: bool = setting(
        False,
        Flag(),
        en="Let the probabilities that a beam adds up sum to 1 again after all other settings.",
        ja="ほかの設定をすべて適用したあと、ビームが累積する確率の合計を 1 に戻す",
        group="beams",
        use="beams",
    )
    num_beams: int = setting(
        1,
        Whole(1, 4096),
        en="Texts that a beam search follows at once; 1 searches nothing. With do_sample the "
        "continuations of the beams are drawn, otherwise the likeliest ones are taken.",
        ja="ビームサーチで同時にたどる文の数。1 はサーチなし。do_sample と併用すると続きを"
        "サンプリングする",
        group="beams",
        use="beams",
    )
    length_penalty: float = setting(
        1.0,
        Number(-50, 50),  # beyond, powers of a length leave float64
        en="Exponent of the length by which a beam's log-probability is divided: above 0 favours "
        "long texts, below 0 short ones.",
        ja="ビームの対数確率を割る長さの指数。正で長い文、負で短い文を優先する",
        group="beams",
        use="beams",
    )
    early_stopping: bool | Literal["never"] = setting(
        cast("bool | Literal['never']", False),
        EarlyStopping(),
        en="When a beam search ends. True: at num_beams ended texts; False: when the running "
        'beams, at their present length, are worse than these; "never": when they could not '
        "get better at any length.",
        ja="ビームサーチの終了条件。True：num_beams 個の文が終わったとき。False：残りのビームが"
        '現在の長さで及ばないとき。"never"：どの長さでも及ばないとき',
        group="beams",
        use="beams",
    )
    num_return_sequences: int = setting(
        1,
        Whole(1, 4096),
        en="Continuations per prompt; with beams, so many of the best ones found.",
        ja="プロンプトあたりの生成数。ビームサーチでは見つかった上位の文",
        group="output",
    )
    logprobs: int | None = setting(
        None,
        Whole(0, 64, optional=True),
        en="Report the log-probability of each chosen token, and of so many best ones, before "
        "any setting is applied.",
        ja="選ばれたトークンと上位 N トークンの対数確率を出力する（各設定の適用前の値）",
        group="output",
    )
    timeout: float | None = setting(
        None,
        Number(0, with_low=False, optional=True),
        en="Seconds after which the request fails; without it there is no limit.",
        ja="この秒数で完了しないリクエストは失敗とする。省略時は無制限",
        group="output",
    )
    given: frozenset[str] = field(init=False, repr=False, compare=False, default=frozenset())

    def __init__(self, **settings: Unpack[Settings]) -> None:
        values = dict(settings)
        declared = self.declared()
        for name in values:
            if name not in declared:
                raise UnknownSettingError(
                    f"unknown setting {name!r}; known are {', '.join(sorted(declared))}"
                )
        for name, item in declared.items():
            value = item.default
            if name in values:
                value = item.metadata["declaration"].kind.check(name, values[name])
            object.__setattr__(self, name, value)
        object.__setattr__(self, "given", frozenset(values))
        if {"num_return_sequences", "num_beams"} <= self.given:
            self._check_beams()
        if {"min_new_tokens", "max_new_tokens"} <= self.given:
            self._check_length()
        self._check_form()

    def __repr__(self) -> str:
        shown = [
            f"{name}={getattr(self, name)!r}" for name in self.declared() if name in self.given
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    @classmethod
    def declared(cls) -> dict[str, Field[Any]]:
        """The settings by name; the metadata's ``declaration`` is a `Declaration`."""
        return {item.name: item for item in fields(cls) if "declaration" in item.metadata}

    def override(self, settings: Mapping[str, Any] | GenerationConfig) -> GenerationConfig:
        """A copy with `settings`, or those that another config was given, changed.

        Raises:
            UnknownSettingError: A name is no setting.
            SettingError: A value is out of its range.
        """
        changes = settings.to_dict() if isinstance(settings, GenerationConfig) else settings
        return type(self)(**cast("Settings", self.to_dict() | dict(changes)))

    def to_dict(self) -> dict[str, Any]:
        """The settings that were given, by name; `GenerationConfig` takes them again."""
        return {name: getattr(self, name) for name in self.declared() if name in self.given}

    @property
    def form(self) -> tuple[str, Any] | None:
        """The setting that says what form the text has, and its value; None where none does."""
        given = [(name, value) for name in _FORMS if (value := getattr(self, name))]
        return given[0] if given else None

    def check_together(self) -> None:
        """Check settings that bound each other, when all of them have their final values.

        Raises:
            SettingError: Two settings exclude each other.
        """
        self._check_beams()
        self._check_length()
        self._check_form()

    def _check_beams(self) -> None:
        if self.num_return_sequences > self.num_beams > 1:
            raise SettingError(
                f"num_return_sequences ({self.num_return_sequences}) must not be above num_beams "
                f"({self.num_beams})"
            )

    def _check_length(self) -> None:
        if self.min_new_tokens > self.max_new_tokens:
            raise SettingError(
                f"min_new_tokens ({self.min_new_tokens}) must not be above max_new_tokens "
                f"({self.max_new_tokens})"
            )

    def _check_form(self) -> None:
        forms = [name for name in _FORMS if getattr(self, name)]
        if len(forms) > 1:
            raise SettingError(f"{forms[1]} and {forms[0]} exclude each other; give one of them")
        for name in ("stop", "forced_eos_token_id"):
            if forms and getattr(self, name):
                raise SettingError(
                    f"{name} and {forms[0]} exclude each other: the form says where the text ends"
                )
