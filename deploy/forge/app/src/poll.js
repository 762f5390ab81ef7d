import { useEffect, useRef } from "react";

const first = 2_000;
const longest = 30_000;

// usePoll calls load at once and then again: two seconds later where it says "moved", later each time where it says "same", never
// where it says "ended". A tab that is hidden asks for nothing and catches up when it is shown. Another `round` begins anew.
// load gets a function that says whether its answer is still wanted; it does not throw.
export function usePoll(load, round) {
  const latest = useRef(load);
  latest.current = load;
  useEffect(() => {
    let timer;
    let wait = first;
    let over = false;
    let asking = false;
    const ask = async () => {
      clearTimeout(timer);
      if (document.hidden || asking || over) return;
      asking = true;
      const outcome = await latest.current(() => !over);
      asking = false;
      if (outcome === "ended") over = true;
      if (over || document.hidden) return;
      wait = outcome === "moved" ? first : Math.min(wait * 1.5, longest);
      timer = setTimeout(ask, wait);
    };
    const shown = () => {
      clearTimeout(timer);
      wait = first;
      ask();
    };
    document.addEventListener("visibilitychange", shown);
    ask();
    return () => {
      over = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", shown);
    };
  }, [round]);
}
