// What went wrong, and what to do about it, in words for the page. Pure.

/** An answer of the server that isn't a success. */
export class ServerError extends Error {
  constructor(status, { message, param, code } = {}, retryAfter = null) {
    super(message || `The server answered ${status}`);
    this.status = status;
    this.param = param ?? null;
    this.code = code ?? null;
    this.retryAfter = retryAfter;
  }
}

/** Nobody answered. */
export class Unreachable extends Error {}

/** The stream ended before the answer did. */
export class Broken extends Error {}

/**
 * {title, message, advice, action: "retry" | "login" | "settings" | null, after: seconds | null} of anything that was thrown.
 */
export function explain(error) {
  const plain = { title: "That did not work", message: sentence(error.message), advice: "", action: "retry", after: null };
  if (error instanceof Unreachable) {
    return { ...plain, title: "The server does not answer", message: "", advice: "Is whimbrel serve still running? Start it again, then try once more." };
  }
  if (error instanceof Broken) {
    return { ...plain, title: "The answer broke off", message: "", advice: "The connection was lost, or the server was stopped. Try again." };
  }
  if (!(error instanceof ServerError)) return { ...plain, title: "That can't be sent", action: "settings", advice: "Mend it in the settings." };
  const after = error.retryAfter;
  switch (true) {
    case error.status === 401:
      return { ...plain, title: "This server wants a key", message: "", advice: "Enter it, then your message is sent again.", action: "login" };
    case error.status === 403:
      return { ...plain, title: "The server refuses this page", action: null };
    case error.status === 404:
      return { ...plain, title: "It is not there any more", advice: "Choose another model, or take the document off this conversation." };
    case error.status === 408:
      return { ...plain, title: "It took too long to send", advice: "Try again." };
    case error.status === 413:
      return { ...plain, title: "That is too large", action: null };
    case error.status === 429:
      return { ...plain, title: "The server is busy", advice: "", after: after ?? 1 };
    case error.status === 503:
      return { ...plain, title: "The server is not ready", advice: "", after: after ?? 1 };
    case error.code === "context_length_exceeded":
      return { ...plain, title: "That is longer than the model can read", advice: "Begin a new conversation, shorten the question, or serve with a larger --context.", action: null };
    case error.status === 400 || error.status === 422:
      return { ...plain, title: "The server can't do what was asked", advice: error.param ? `It is about "${error.param}"; the settings may hold it.` : "", action: "settings" };
    case error.status >= 500:
      return { ...plain, title: "The server made a mistake", advice: "Its log says more. Try again." };
    default:
      return plain;
  }
}

/** With a capital letter and a full stop. */
function sentence(text) {
  const trimmed = (text ?? "").trim();
  if (!trimmed) return "";
  return trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?…]$/.test(trimmed) ? "" : ".");
}
