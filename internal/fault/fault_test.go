package fault_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gitsmith/gitsmith/internal/fault"
)

func TestTables(t *testing.T) {
	want := map[fault.Kind]struct {
		name        string
		status      int
		disposition fault.Disposition
	}{
		fault.Internal:        {"internal", 500, fault.Retry},
		fault.Invalid:         {"invalid", 400, fault.Fail},
		fault.Unauthenticated: {"unauthenticated", 401, fault.Fail},
		fault.Denied:          {"denied", 403, fault.Fail},
		fault.NotFound:        {"not_found", 404, fault.Fail},
		fault.Conflict:        {"conflict", 409, fault.Restart},
		fault.TooLarge:        {"too_large", 413, fault.Fail},
		fault.Expired:         {"expired", 409, fault.Expire},
		fault.Throttled:       {"throttled", 429, fault.Snooze},
		fault.Unavailable:     {"unavailable", 503, fault.Retry},
		fault.Interrupted:     {"interrupted", 503, fault.Requeue},
		fault.Canceled:        {"canceled", 409, fault.Cancel},
	}
	if len(want) != len(fault.Kinds()) {
		t.Fatalf("the table of this test has %d kinds, the package %d", len(want), len(fault.Kinds()))
	}
	for _, kind := range fault.Kinds() {
		row := want[kind]
		if kind.String() != row.name || kind.Problem().Status != row.status || kind.Disposition() != row.disposition {
			t.Errorf("%s: status %d, disposition %d; want %+v", kind, kind.Problem().Status, kind.Disposition(), row)
		}
		if kind.Problem().Title == "" {
			t.Errorf("%s has no title", kind)
		}
		text, _ := kind.MarshalText()
		var back fault.Kind
		if err := back.UnmarshalText(text); err != nil || back != kind {
			t.Errorf("%s reads back as %s (%v)", kind, back, err)
		}
	}
	if fault.Kind(200).Problem().Status != 500 || fault.Kind(200).Disposition() != fault.Retry {
		t.Error("an unknown kind is not treated as internal")
	}
}

func TestKindOf(t *testing.T) {
	denied := fault.Newf(fault.Denied, "push to acme/web: no")
	for name, tc := range map[string]struct {
		err  error
		want fault.Kind
	}{
		"nil":                  {nil, fault.Internal},
		"bare":                 {errors.New("x"), fault.Internal},
		"classified":           {denied, fault.Denied},
		"context kept":         {fmt.Errorf("job: %w", denied), fault.Denied},
		"the outermost wins":   {fault.Wrapf(fault.Conflict, denied, "moved"), fault.Conflict},
		"canceled context":     {fmt.Errorf("x: %w", context.Canceled), fault.Interrupted},
		"deadline":             {context.DeadlineExceeded, fault.Unavailable},
		"classified over ctx":  {fault.Wrapf(fault.Throttled, context.Canceled, "wait"), fault.Throttled},
		"joined with a silent": {errors.Join(errors.New("x"), denied), fault.Denied},
	} {
		if got := fault.KindOf(tc.err); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

func TestPublicTellsNothingPrivate(t *testing.T) {
	err := fmt.Errorf("job 1: %w", fault.Wrapf(fault.Denied, errors.New("private cause"), "push refused"))
	if got := fault.Public(err); got != "push refused" {
		t.Errorf("public text %q", got)
	}
	if strings.Contains(err.Error(), "private cause") {
		t.Errorf("printing the error shows the cause: %s", err)
	}
	if !strings.Contains(fault.Private(err), "private cause") {
		t.Errorf("the log's text lacks the cause: %s", fault.Private(err))
	}
	if got := fault.Public(errors.New("secret thing")); strings.Contains(got, "secret") {
		t.Errorf("an unclassified error speaks: %q", got)
	}
}

func TestPublicIsBounded(t *testing.T) {
	for _, text := range []string{strings.Repeat("é", 600), strings.Repeat("x", 501), "a\xffb"} {
		got := fault.Newf(fault.Invalid, "%s", text).Public
		if len(got) > fault.MaxPublic || !utf8.ValidString(got) {
			t.Errorf("%d bytes, valid %t", len(got), utf8.ValidString(got))
		}
	}
}
