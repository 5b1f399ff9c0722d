"""Judges every sample: was it made on the weights that its reply claims, and were those the fleet's target then?

All it knows is what a trainer knows: which versions it has offered, when, and what it was answered. Instants are
seconds of one monotonic clock.
"""

import math
from dataclasses import dataclass, field

UNTOLD = "unknown"
"""The version of a reply whose worker's weights were changed under it: a refit that does not drain may do that."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply with status 200: the version that its header claims, and the checksum that the worker stamped on it."""

    sent_s: float
    ended_s: float
    version: str
    weights: str
    worker: str

    def __str__(self) -> str:
        return f"{self.worker} as {self.version}, {self.sent_s:.3f} to {self.ended_s:.3f} s"


@dataclass(slots=True)
class Offer:
    """A version that the trainer has put up, and what became of it.

    first: the version had never been offered before. abrupt: running work is not waited for. gapless: once one worker
    serves it, none serves an older one. until_s: from then on it was not wanted any more.
    """

    version: str
    from_s: float
    first: bool
    abrupt: bool
    gapless: bool
    until_s: float = math.inf


@dataclass
class Oracle:
    """What the trainer knows.

    weights: checksum that each version ever offered stands for.
    """

    weights: dict[str, str]
    offers: list[Offer] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def starting_with(cls, version: str, checksum: str) -> "Oracle":
        base = Offer(version, -math.inf, first=True, abrupt=False, gapless=False)
        return cls({version: checksum}, [base])

    def offered(self, version: str, checksum: str, at_s: float, *, abrupt: bool = False, gapless: bool = True) -> Offer:
        """Note that a refit is about to be sent; from now on its version may be served beside what was before."""
        first = version not in self.weights
        assert first or self.weights[version] == checksum, f"{version} is offered with two meanings"
        self.weights[version] = checksum
        self.offers.append(Offer(version, at_s, first, abrupt, gapless))
        return self.offers[-1]

    def took(self, offer: Offer, at_s: float) -> None:
        """Note the answer that a worker has loaded it: nothing older is wanted from now on."""
        for older in self.offers[: self.offers.index(offer)]:
            older.until_s = min(older.until_s, at_s)

    def declined(self, offer: Offer, at_s: float) -> None:
        """Note the answer that no worker has loaded it."""
        offer.until_s = min(offer.until_s, at_s)

    def violations(self) -> list[str]:
        """Say what is wrong, a sentence for each sample that must not be."""
        return [*filter(None, map(self._fault, self.samples)), *self._relapses()]

    def _fault(self, sample: Sample) -> str | None:
        wanted = [offer for offer in self.offers if offer.from_s <= sample.ended_s and sample.sent_s <= offer.until_s]
        if sample.version == UNTOLD:
            if not any(offer.abrupt for offer in wanted):
                return f"{sample}: nothing has changed weights under running work"
            if sample.weights not in {self.weights[offer.version] for offer in wanted}:
                return f"{sample}: made on {self._name(sample.weights)}, wanted: {[offer.version for offer in wanted]}"
            return None
        if sample.version not in self.weights:
            return f"{sample}: nobody has ever offered that version"
        if sample.weights != self.weights[sample.version]:
            return f"{sample}: made on {self._name(sample.weights)}"
        if sample.version not in {offer.version for offer in wanted}:
            return f"{sample}: wanted were {[offer.version for offer in wanted]}"
        return None

    def _relapses(self) -> list[str]:
        """Find samples that were asked for after newer weights had been served in a fenced refit, and are older."""
        found = []
        for number, offer in enumerate(self.offers):
            if not (offer.gapless and offer.first):
                continue
            first_s = min((s.ended_s for s in self.samples if s.version == offer.version), default=math.inf)
            older = {before.version for before in self.offers[:number]}
            again_s = {after.version: after.from_s for after in reversed(self.offers[number + 1 :])}
            found += [
                f"{sample}: {offer.version} was being served already"
                for sample in self.samples
                if sample.sent_s > first_s
                and sample.version in older
                and sample.ended_s < again_s.get(sample.version, math.inf)
            ]
        return found

    def _name(self, weights: str) -> str:
        return next((version for version, known in self.weights.items() if known == weights), f"unknown {weights[:12]}")
