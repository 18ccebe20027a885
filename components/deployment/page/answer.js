// The answer as people see it: who wrote each piece, and how strongly the small model asked for help there.
// Everything that a model or a person wrote becomes text (`textContent`), never markup.

const OUTCOMES = {
  none: "",
  answered: "",
  empty: "It asked, and the helper had nothing to add.",
  failed: "It asked, and the helper failed.",
};

export class AnswerView {
  /** `place`: the elements that show the answer, its bars and the selected piece. */
  constructor(place) {
    this.place = place;
    this.helper = null;
    this.reset("");
    for (const box of [place.written, place.strip]) {
      for (const event of ["pointerover", "click"]) {
        box.addEventListener(event, ({ target }) => {
          if (target.dataset.piece) this.select(Number(target.dataset.piece));
        });
      }
    }
    place.answer.addEventListener("keydown", (event) => this.#move(event));
  }

  /** An empty answer after `given`. */
  reset(given) {
    this.pieces = [];
    this.selected = -1;
    this.place.given.textContent = given;
    this.place.written.replaceChildren();
    this.place.strip.replaceChildren();
    this.place.detail.textContent = "";
  }

  /** Adds what one decision wrote. */
  add(piece) {
    const number = this.pieces.push(piece) - 1;
    const words = piece.text.trimStart();
    const span = document.createElement("span");
    span.textContent = words;
    span.dataset.piece = number;
    span.className = styleOf(piece);
    this.place.written.append(piece.text.slice(0, piece.text.length - words.length), span);
    const bar = document.createElement("span");
    bar.dataset.piece = number;
    bar.className = styleOf(piece);
    bar.style.setProperty("--p", piece.call_probability);
    this.place.strip.append(bar);
  }

  /** Adds text of a model that has no helper. */
  addPlain(text) {
    this.place.written.append(text);
  }

  /** Shows the details of piece `number`. */
  select(number) {
    for (const [at, on] of [[this.selected, false], [number, true]]) {
      for (const box of [this.place.written, this.place.strip]) {
        box.querySelector(`[data-piece="${at}"]`)?.classList.toggle("selected", on);
      }
    }
    this.selected = number;
    this.place.detail.replaceChildren(...this.#details(this.pieces[number]));
  }

  #details(piece) {
    const author = piece.author === "helper" ? `the helper (${this.helper})` : "the small model";
    const waited = piece.helper_seconds ? ` The helper took ${milliseconds(piece.helper_seconds)}.` : "";
    const text = document.createElement("q");
    text.textContent = piece.text.trim() || (piece.text ? "space" : "nothing to see");
    const probability = document.createElement("strong");
    probability.textContent = `P(CALL) ${percent(piece.call_probability)}`;
    return [text, " ", probability, ` Written by ${author}. ${OUTCOMES[piece.call]}${waited}`];
  }

  #move(event) {
    const last = this.pieces.length - 1;
    const to = {
      ArrowRight: Math.min(this.selected + 1, last),
      ArrowLeft: Math.max(this.selected - 1, 0),
      Home: 0,
      End: last,
    }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.select(to);
  }
}

export function percent(share) {
  const digits = share > 0 && share < 0.1 ? 1 : 0;
  return `${(100 * share).toFixed(digits)}\u00a0%`;
}

export function milliseconds(seconds) {
  return seconds < 1 ? `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms` : `${seconds.toFixed(1)} s`;
}

function styleOf(piece) {
  if (piece.author === "helper") return "helper";
  return piece.call === "none" ? "" : "unanswered";
}
