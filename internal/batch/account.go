package batch

import (
	"cmp"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Root is what Redis keeps of a batch as a whole, field by field. A batch that is not there has an empty one.
type Root map[string]string

// State is the state that is written down; [Account.Status] says how the batch stands.
func (r Root) State() State { return State(r["state"]) }

// Actor is whose token does the work.
func (r Root) Actor() forge.Actor {
	return forge.Actor{Kind: forge.ActorKind(r["actor"]), Principal: r["principal"]}
}

// Requester is who asked for the batch. One of an earlier version has no such field: then it is the user who acts, if one does.
func (r Root) Requester() string { return cmp.Or(r["requester"], r["principal"]) }

// Created is when the batch was asked for.
func (r Root) Created() time.Time { return r.time("created") }

// Trace is the trace of the call that asked for the batch.
func (r Root) Trace() job.Trace { return job.Trace{TraceID: r["trace"], SpanID: r["span"]} }

// Cursor is the page that the batch's query asks for next.
func (r Root) Cursor() string { return r["cursor"] }

// NextPage is from when on the query's next page may be asked for; the zero time is at once.
func (r Root) NextPage() time.Time { return r.time("next_page") }

func (r Root) number(field string) int {
	number, _ := strconv.Atoi(r[field]) // a field that is not there is zero
	return number
}

func (r Root) time(field string) time.Time {
	milliseconds, err := strconv.ParseInt(r[field], 10, 64)
	if err != nil || milliseconds == 0 {
		return time.Time{}
	}
	return time.UnixMilli(milliseconds).UTC()
}

func (r Root) title(ring *secret.Keyring, installation, id string) string {
	plain, err := ring.Open([]byte(r["title"]), titleContext(installation, id)...)
	if err != nil {
		return "(its title cannot be opened: the sealing key is gone)"
	}
	return string(plain)
}

// rollout returns the roll-out that was asked for; nil for none.
func (r Root) rollout() *Rollout {
	share := func(field string) Share {
		parsed, _ := parseShare(r[field]) // a field that is not there is the zero Share
		return parsed
	}
	rollout := Rollout{Canary: share("canary"), Then: share("then"), StopAtFailures: share("stop")}
	if rollout == (Rollout{}) {
		return nil
	}
	return &rollout
}

// Account is a batch as Redis has it at one instant.
type Account struct {
	Root   Root
	Counts map[ItemState]int // of each of [Sets]
	Ends   []string          // when the last repositories ended, in Unix milliseconds, newest first
}

// Total is how many repositories the batch has, as far as they are known.
func (a Account) Total() int { return a.Root.number("total") }

// Version tells an account's states apart, also where Redis lost its last second, and counts again what it had counted.
func (a Account) Version() string {
	newest := ""
	if len(a.Ends) > 0 {
		newest = a.Ends[0]
	}
	return strings.Join([]string{a.Root["created"], a.Root["changes"], newest, strconv.Itoa(a.Counts[Failed]), strconv.Itoa(a.Counts[Skipped])}, " ")
}

// Status is how the batch stands, without the reasons of failures and skips. ring opens its title.
func (a Account) Status(ring *secret.Keyring, installation, id string, now time.Time) Status {
	root := a.Root
	status := Status{
		ID: id, Installation: installation, Title: root.title(ring, installation, id), State: root.State(), Reason: root["reason"],
		DryRun: root["dry"] == "1", From: root["from"], Rollout: root.rollout(), Concurrency: root.number("concurrency"), PerHour: root.number("per_hour"),
		Actor: root["actor"], Requester: root.Requester(), CreatedAt: root.Created(), EndedAt: root.time("ended"),
		Total: a.Total(), Totals: maps.Clone(a.Counts),
	}
	status.Totals[Queued] += status.Totals[Pending]
	delete(status.Totals, Pending)
	left := status.Totals[Queued] + status.Totals[Running] + status.Totals[Waiting]
	going := status.State == StateRunning || status.State == StateResolving
	switch hold := root["hold"]; {
	case going && hold != "":
		status.State, status.Reason, going = StatePaused, hold, false
	case status.State == StateFinished && left > 0: // somebody retried one of its jobs by itself
		status.State, status.EndedAt = StateRunning, time.Time{}
	}
	status.Stage = a.stage()
	status.PerMinute = perMinute(a.Ends, now, status.EndedAt)
	if going && left > 0 && status.PerMinute > 0 && status.State == StateRunning {
		seconds := int(math.Ceil(float64(left) / status.PerMinute * 60))
		status.SecondsLeft = &seconds
	}
	return status
}

// stage is nil for a batch without a roll-out, and for a dry run.
func (a Account) stage() *Stage {
	canary, then := a.Root["canary"], a.Root["then"]
	if canary == "" && then == "" || a.Root["dry"] == "1" || a.Root["resolved"] != "1" {
		return nil
	}
	total := a.Total()
	stages := []Stage{}
	for _, each := range []Stage{{"canary", amount(canary, total)}, {"then", amount(then, total)}} {
		if each.Until > 0 {
			stages = append(stages, each)
		}
	}
	stages = append(stages, Stage{"rest", total})
	return &stages[min(a.Root.number("stage"), len(stages)-1)]
}

// amount is how many of total a share is, rounded up; zero for none.
func amount(share string, total int) int {
	parsed, err := parseShare(share)
	switch {
	case err != nil:
		return 0
	case parsed.Percent > 0:
		return int(math.Ceil(parsed.Percent * float64(total) / 100))
	}
	return min(parsed.Number, total)
}

// perMinute is how many repositories ended in a minute, over the last hundred: until now while the batch goes on.
func perMinute(ends []string, now, ended time.Time) float64 {
	if len(ends) < 2 {
		return 0
	}
	oldest, _ := strconv.ParseInt(ends[len(ends)-1], 10, 64) // our own scripts write them
	until := now
	if !ended.IsZero() {
		until = ended
	}
	took := until.Sub(time.UnixMilli(oldest))
	if took <= 0 {
		return 0
	}
	return math.Round(float64(len(ends))/took.Minutes()*10) / 10
}
