package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/gitsmith/gitsmith/internal/packstream"
)

// readReport reads git-receive-pack's answer to a push of one ref. It returns nil if the server reported that it updated the ref or,
// from a server that gives no reports, if it refused nothing. An answer that cannot be read is Unavailable: the outcome is unknown.
// An error message in place of a report, in an ERR line or on band 3, has a [refusal] among its causes.
func readReport(ctx context.Context, op operation, answer io.Reader, takes receiver, ref string) error {
	words := new(lastWords)
	lines := newPktReader(io.LimitReader(answer, maxAnswer))
	if takes.Sideband {
		lines = newPktReader(&sideband{lines: lines, words: words})
	}
	reason, err := parseReport(lines, takes, ref)
	if err == nil {
		err = lines.end() // a post-receive hook may still be writing
	}
	switch refused := new(refusal); {
	case errors.As(err, &refused):
		return classifyRefusal(op, refused, words)
	case err != nil:
		return classifyPack(ctx, op, err)
	case reason != "":
		return classifyCommand(op, errors.New(quote(reason)), reason, words)
	}
	return nil
}

// parseReport reads a report (gitprotocol-pack(5), "Report Status"). It returns why the ref was not updated, empty if it was.
func parseReport(lines *pktReader, takes receiver, ref string) (reason string, err error) {
	line, kind, err := lines.text()
	if errors.Is(err, io.EOF) && !takes.Report {
		return "", nil
	}
	unpacked, found := strings.CutPrefix(line, "unpack ")
	switch {
	case err != nil:
		return "", noEOF(err)
	case !takes.Report: // the branch itself will tell
		return "", nil
	case kind != pktData || !found:
		return "", fmt.Errorf("%w: %.40q where a report begins", packstream.ErrDamaged, line)
	}
	updated := false
	for {
		if line, kind, err = lines.text(); err != nil {
			return "", noEOF(err)
		}
		if kind != pktData {
			break
		}
		verb, rest, _ := strings.Cut(line, " ")
		name, why, _ := strings.Cut(rest, " ")
		switch {
		case verb == "ok" && name == ref:
			updated = true
		case verb == "ng" && name == ref:
			reason = why
		case verb != "option":
			return "", fmt.Errorf("%w: %.80q in a report on %.80q", packstream.ErrDamaged, line, ref)
		}
	}
	switch {
	case unpacked != "ok":
		return "unpack error: " + unpacked, nil
	case !updated && reason == "":
		return "", fmt.Errorf("%w: a report without %.80q", packstream.ErrDamaged, ref)
	}
	return reason, nil
}

const (
	maxAnswer = 16 << 20 // bytes of an answer to a push that are read; most are progress of hooks
	maxWords  = 4 << 10  // bytes of messages for people that are kept
)

// lastWords keeps the end of a server's messages for people: a refusal comes after the progress.
type lastWords struct {
	kept bytes.Buffer
	cut  bool
}

func (w *lastWords) Write(p []byte) (int, error) {
	_, _ = w.kept.Write(p) // into memory
	if over := w.kept.Len() - maxWords; over > 0 {
		w.kept.Next(over)
		w.cut = true
	}
	return len(p), nil
}

// String returns the messages from the start of a line. A line cut in the middle could begin with half a credential, which the
// scrubber would not recognize.
func (w *lastWords) String() string {
	text := w.kept.String()
	if !w.cut {
		return text
	}
	begin := strings.IndexAny(text, "\r\n")
	if begin < 0 {
		return ""
	}
	return text[begin+1:]
}
