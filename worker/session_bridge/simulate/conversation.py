"""Acts a scenario out: who says what when, and what the agent's pipeline reports meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from pydantic import JsonValue

from session_bridge.contract.fields import Family
from session_bridge.contract.vocabulary import MetricType
from session_bridge.simulate.call import Change, Event
from session_bridge.simulate.scenario import Exchange, Scenario, Stage, Texts, ToolUse

STT_MODEL, LLM_MODEL, TTS_MODEL = "listen-2", "converse-medium", "voice-alder"

_CALLER_MS_PER_WORD, _AGENT_MS_PER_WORD = 340, 300
_UNCLEAR_CHANCE, _INTERRUPTED_CHANCE, _NOT_FOUND_CHANCE, _TOOL_FAILS_CHANCE = 0.12, 0.15, 0.08, 0.05
_WORDS_BEFORE_INTERRUPTION = 7
_TOKENS_PER_WORD = 1.4


class Conversation:
    """One scenario as it takes its course; `steps` gathers what happens, `ms` is how far the call is."""

    def __init__(self, random: Random, scenario: Scenario) -> None:
        self.ms = random.randint(300, 900)
        self.steps: list[Event | Change] = []
        self.collected: dict[str, JsonValue] = {}
        self.objections: list[JsonValue] = []
        self.tokens = 0
        self.characters = 0
        self.words_heard = 0
        self._random = random
        self._scenario = scenario
        self._facts = {name: random.choice(values) for name, values in scenario.facts.items()}
        self._node = scenario.stages[0]
        self._turn = 0
        self._prompt_tokens = random.randint(420, 760)

    def act(self) -> None:
        """From the greeting to the last word."""
        stages = self._scenario.stages
        self._agent_says(self.fill(self._random.choice(self._scenario.greeting)))
        for stage in stages:
            self._enter(stage)
            for exchange in stage.exchanges:
                if self._random.random() < _UNCLEAR_CHANCE:
                    self._exchange(self._random.choice(self._scenario.unclear))
                if self._random.random() < exchange.chance:
                    last = stage is stages[-1] and exchange is stage.exchanges[-1]
                    self._exchange(exchange, may_interrupt=not last)
        self.ms += self._random.randint(400, 1500)

    def fill(self, text: str) -> str:
        """`text` with this call's facts in it, beginning with a capital letter."""
        filled = text.format_map(self._facts)
        return filled[:1].upper() + filled[1:]

    @property
    def final_node(self) -> str:
        """The node the conversation is in."""
        return self._node.node_id

    # -- one exchange -------------------------------------------------------------------------------------------

    def _enter(self, stage: Stage) -> None:
        if self._turn:
            names: dict[str, JsonValue] = {"from_node_id": self._node.node_id, "from_node_name": self._node.name}
        else:
            names = {}
        self._node = stage
        to: dict[str, JsonValue] = {"to_node_id": stage.node_id, "to_node_name": stage.name}
        self._event(Family.TRANSITION, {**names, **to, "reason": stage.entered_because, "turn_number": self._turn})
        self._change({"conversation_stage": stage.node_id})

    def _exchange(self, exchange: Exchange, *, may_interrupt: bool = True) -> None:
        self._turn += 1
        self._caller_says(self.fill(self._random.choice(exchange.caller)))
        delays: dict[MetricType, float] = {
            MetricType.STT_DELAY: self._random.uniform(70, 260),
            MetricType.END_OF_TURN_DELAY: self._random.uniform(180, 650),
            MetricType.TRANSCRIPT_LLM_GAP: self._random.uniform(4, 40),
        }
        if exchange.objection:
            self._object(exchange.objection)
        if exchange.takes:
            delays[MetricType.VARIABLE_EXTRACTION_TIME] = self._extract(exchange.takes)
        if exchange.looks_up:
            delays[MetricType.RAG_PROCESSING_TIME] = self._retrieve(self.fill(exchange.looks_up))
        if exchange.tool is not None:
            self._call_tool(exchange.tool)
        answer = self.fill(self._random.choice(exchange.agent))
        self._think(answer, delays)
        interrupted = may_interrupt and self._random.random() < _INTERRUPTED_CHANCE
        self._agent_says(answer, interrupted=interrupted and len(answer.split()) > _WORDS_BEFORE_INTERRUPTION)

    def _caller_says(self, text: str) -> None:
        self.ms += self._random.randint(250, 1400)
        words = len(text.split())
        self.words_heard += words
        confidence = round(self._random.uniform(0.82, 0.995), 3)
        spoken = round(words * _CALLER_MS_PER_WORD * self._random.uniform(0.8, 1.3))
        self._message("user", text, spoken, {"speaker": "caller", "confidence": confidence})

    def _agent_says(self, text: str, *, interrupted: bool = False) -> None:
        words = text.split()
        if interrupted:
            words = words[: max(_WORDS_BEFORE_INTERRUPTION - 2, round(len(words) * self._random.uniform(0.4, 0.8)))]
            text = " ".join(words) + "..."
        self.characters += len(text)
        spoken = round(len(words) * _AGENT_MS_PER_WORD * self._random.uniform(0.9, 1.1))
        carried: dict[str, JsonValue] = {
            "speaker": self._scenario.agent_name,
            "model": LLM_MODEL,
            "tokens_used": round(len(words) * _TOKENS_PER_WORD),
        }
        if interrupted:
            carried["was_interrupted"] = True
        self._message("assistant", text, spoken, carried)
        if interrupted:
            self._event(Family.INTERRUPTION, {"interrupted_at_turn": self._turn, "node_id": self._node.node_id})

    def _message(self, role: str, text: str, spoken_ms: int, carried: Mapping[str, JsonValue]) -> None:
        start = self.ms
        said: dict[str, JsonValue] = {"role": role, "content": text, "start_ms": start, "end_ms": start + spoken_ms}
        self._event(Family.MESSAGE, {**said, **self._place(), **carried})
        self.ms += spoken_ms

    # -- what the pipeline does between two words ---------------------------------------------------------------

    def _think(self, answer: str, delays: dict[MetricType, float]) -> None:
        """Let the time of an answer pass, and report it as the pipeline's processors would."""
        random = self._random
        completion = round(len(answer.split()) * _TOKENS_PER_WORD)
        self._prompt_tokens += random.randint(30, 90)
        self.tokens += self._prompt_tokens + completion
        # Most answers begin soon; a few take long, as they do with every model.
        first_token = random.lognormvariate(5.9, 0.35)
        delays[MetricType.LLM_TTFB] = first_token
        delays[MetricType.LLM_TO_TTS_GAP] = random.uniform(3, 25)
        delays[MetricType.TTS_TTFB] = random.uniform(80, 260)
        waited = sum(delays.values())
        self.ms += round(waited)
        processing = first_token + completion * random.uniform(8, 16)
        measured: tuple[tuple[MetricType, float, str, str], ...] = (
            *((metric, value, "ms", _processor(metric)) for metric, value in delays.items()),
            (MetricType.LLM_PROCESSING_TIME, processing, "ms", "llm"),
            (MetricType.USER_TO_BOT_LATENCY, waited, "ms", "pipeline"),
            (MetricType.TOTAL_PIPELINE_TIME, waited + random.uniform(1, 9), "ms", "pipeline"),
            (MetricType.LLM_PROMPT_TOKENS, self._prompt_tokens, "tokens", "llm"),
            (MetricType.LLM_COMPLETION_TOKENS, completion, "tokens", "llm"),
            (MetricType.TTS_CHARACTERS, len(answer), "characters", "tts"),
        )
        models = {"stt": STT_MODEL, "llm": LLM_MODEL, "tts": TTS_MODEL}
        for metric, value, unit, processor in measured:
            facts: dict[str, JsonValue] = {"metric_type": str(metric), "value": round(value, 1), "unit": unit}
            model: dict[str, JsonValue] = {"model": models[processor]} if processor in models else {}
            self._event(Family.METRIC, {**facts, "processor": processor, **model, **self._place()})

    def _extract(self, names: Texts) -> float:
        found = {name: self._facts[name] for name in names if self._random.random() >= _NOT_FOUND_CHANCE}
        took = round(self._random.uniform(110, 420), 1)
        self._event(
            Family.EXTRACTION,
            {
                "variables_requested": list(names),
                "variables_extracted": dict(found),
                "success": len(found) == len(names),
                "confidence": round(self._random.uniform(0.7, 0.99), 2),
                "processing_time_ms": took,
                **self._place(),
            },
        )
        if found:
            self.collected |= found
            self._change({"collected_data": dict(self.collected)})
        return took

    def _retrieve(self, query: str) -> float:
        took = round(self._random.uniform(25, 140), 1)
        mode = self._random.choice(("vector", "hybrid", "hybrid", "fts"))
        count = self._random.randint(3, 5)
        chunks = self._scenario.knowledge.retrieve(self._random, count)
        self._event(
            Family.RAG,
            {
                "query_text": query,
                "query_params": {"language": self._scenario.language, "min_score": 0.5},
                "search_mode": mode,
                "top_k": count,
                "processing_time_ms": took,
                "chunks": list(chunks),
                **self._place(),
            },
        )
        return took

    def _call_tool(self, tool: ToolUse) -> None:
        failed = self._random.random() < _TOOL_FAILS_CHANCE
        output: JsonValue = {
            name: value.format_map(self._facts) if isinstance(value, str) else value
            for name, value in tool.output.items()
        }
        took = self._random.randint(60, 700)
        self._event(
            Family.TOOL,
            {
                "name": tool.name,
                "arguments": {name: self._facts[name] for name in tool.arguments},
                "output": "the service did not answer in time" if failed else output,
                "is_error": failed,
                "duration_ms": took,
                **self._place(),
            },
        )
        self.ms += took
        if failed:
            self._call_tool(tool)

    def _object(self, kind: str) -> None:
        self.objections.append({"type": kind, "turn_number": self._turn, "answered": True})
        self._change({"objections_encountered": list(self.objections)})

    # -- writing down -------------------------------------------------------------------------------------------

    def _place(self) -> dict[str, JsonValue]:
        return {"node_id": self._node.node_id, "turn_number": self._turn}

    def _event(self, family: Family, data: Mapping[str, JsonValue]) -> None:
        self.steps.append(Event(self.ms, family, data))

    def _change(self, fields: Mapping[str, JsonValue]) -> None:
        self.steps.append(Change(self.ms, fields))


def _processor(metric: MetricType) -> str:
    prefix = metric.partition("_")[0]
    return prefix if prefix in ("stt", "llm", "tts", "rag") else "pipeline"
