package ops

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// itemStates are a repository's states in the order of the progress bar: how it ended well, how badly, then what is to come.
var itemStates = []string{"succeeded", "unchanged", "skipped", "failed", "canceled", "running", "waiting", "queued"}

// endedStates is how many of itemStates are ends.
const endedStates = 5

// barWidth is the progress bar's, in its own units; leastWidth is what a state with any repository gets of it.
const (
	barWidth   = 1000
	leastWidth = 12
)

// moment is a time, or none, for the element <time>.
type moment struct{ Machine, Human string }

func newMoment(at time.Time) moment {
	if at.IsZero() {
		return moment{}
	}
	at = at.UTC()
	return moment{at.Format(time.RFC3339), at.Format("2 Jan 2006, 15:04:05") + " UTC"}
}

type segment struct {
	State    string
	X, Width int
}

type count struct {
	State, Number, Href string
	None, Current       bool
}

type groupView struct {
	Kind, Reason, Count, Rest string
	Examples                  []string
}

type batchView struct {
	Key, Href, Title, ID, Installation string
	State, Reason, Actor               string
	DryRun                             bool
	From, FromHref                     string
	Created, Ended                     moment
	Took                               string
	Done, Total, Percent, BarLabel     string
	Segments                           []segment
	Gate                               int // where the stage of a roll-out ends on the bar; zero without one
	Stage                              string
	Counts                             []count
	Rate, Left                         string
	Failed, Skipped                    string // what the groups are, in a line
	Failures, Skips                    []groupView
}

// batchPart is a batch among others, or in full on its own page.
type batchPart struct {
	batchView
	Full bool
}

func newBatchView(status batch.Status) batchView {
	at := place{installation: status.Installation, id: status.ID}
	view := batchView{
		Key: key(status.Installation, status.ID), Href: at.href(), Title: cmp.Or(secret.Scrub(status.Title), "without a title"), ID: status.ID,
		Installation: shortInstallation(status.Installation), State: string(status.State), Reason: secret.Scrub(status.Reason), Actor: status.Actor,
		DryRun: status.DryRun, From: status.From, Created: newMoment(status.CreatedAt), Ended: newMoment(status.EndedAt),
		Total: number(status.Total), Failures: newGroups(status.Failures), Skips: newGroups(status.Skips),
		Failed: reasons(status.Failures, status.Totals["failed"], "failed"), Skipped: reasons(status.Skips, status.Totals["skipped"], "skipped"),
	}
	if status.From != "" {
		view.FromHref = place{installation: status.Installation, id: status.From}.href()
	}
	if !status.EndedAt.IsZero() {
		view.Took = span(status.EndedAt.Sub(status.CreatedAt))
	}
	if status.PerMinute > 0 && status.EndedAt.IsZero() {
		view.Rate = rate(status.PerMinute)
	}
	if status.SecondsLeft != nil && status.EndedAt.IsZero() {
		view.Left = span(time.Duration(*status.SecondsLeft) * time.Second)
	}
	done := 0
	for i, state := range itemStates {
		n := status.Totals[batch.ItemState(state)]
		if i < endedStates {
			done += n
		}
		there := place{status.Installation, status.ID, state, ""}
		view.Counts = append(view.Counts, count{State: state, Number: number(n), Href: there.href(), None: n == 0})
	}
	view.Done = number(done)
	if status.Total > 0 {
		view.Percent = strconv.Itoa(100 * done / status.Total)
	}
	view.Segments = newSegments(status)
	view.BarLabel = barLabel(view)
	if status.Stage != nil {
		view.Stage = secret.Scrub(status.Stage.Name)
		view.Gate = gate(status)
	}
	return view
}

// key is the id of the batch's element: whatever the batch's id holds, this holds letters and digits.
func key(installation, id string) string {
	sum := sha256.Sum256([]byte(installation + "\n" + id))
	return "batch-" + hex.EncodeToString(sum[:8])
}

// shortInstallation is what tells one installation from another in Forge's long name of it.
func shortInstallation(installation string) string {
	return installation[strings.LastIndexByte(installation, '/')+1:]
}

// newSegments share the bar among the states. Three failures in ten thousand are seen too; the largest states give the room.
func newSegments(status batch.Status) []segment {
	sum, widths := 0, make([]int, len(itemStates))
	for _, state := range itemStates {
		sum += max(status.Totals[batch.ItemState(state)], 0)
	}
	if sum = max(sum, status.Total); sum == 0 {
		return nil
	}
	spare := barWidth
	for i, state := range itemStates {
		if n := status.Totals[batch.ItemState(state)]; n > 0 {
			widths[i] = max(int(int64(n)*barWidth/int64(sum)), leastWidth)
			spare -= widths[i]
		}
	}
	if largest := largestOf(widths); spare < 0 {
		widths[largest] += spare
	}
	var segments []segment
	x := 0
	for i, width := range widths {
		if width > 0 {
			segments = append(segments, segment{itemStates[i], x, width})
		}
		x += width
	}
	return segments
}

func largestOf(widths []int) int {
	largest := 0
	for i, width := range widths {
		if width > widths[largest] {
			largest = i
		}
	}
	return largest
}

func gate(status batch.Status) int {
	if status.Total <= 0 || status.Stage.Until <= 0 || status.Stage.Until >= status.Total {
		return 0
	}
	return int(int64(status.Stage.Until) * barWidth / int64(status.Total))
}

// barLabel is the bar in words.
func barLabel(view batchView) string {
	var counts []string
	for _, count := range view.Counts {
		if !count.None {
			counts = append(counts, count.Number+" "+count.State)
		}
	}
	label := view.Done + " of " + view.Total + " repositories have ended"
	if len(counts) > 0 {
		label += ": " + strings.Join(counts, ", ")
	}
	return label
}

func newGroups(groups []batch.Group) []groupView {
	var views []groupView
	for _, group := range groups {
		view := groupView{Kind: group.Kind, Reason: secret.Scrub(group.Reason), Count: number(group.Count)}
		for _, example := range group.Examples {
			view.Examples = append(view.Examples, secret.Scrub(example))
		}
		if more := group.Count - len(group.Examples); more > 0 && len(group.Examples) > 0 {
			view.Rest = number(more)
		}
		views = append(views, view)
	}
	return views
}

// reasons says how many repositories the groups are about. Rare reasons may have no group.
func reasons(groups []batch.Group, total int, what string) string {
	grouped := 0
	for _, group := range groups {
		grouped += group.Count
	}
	text := number(max(total, grouped)) + " " + what + ", for "
	switch {
	case grouped < total:
		return text + "more than " + number(len(groups)) + " reasons"
	case len(groups) == 1:
		return text + "1 reason"
	}
	return text + number(len(groups)) + " reasons"
}

type itemView struct {
	Key, Repository, State, Branch, Commit, ShortCommit string
	PullRequest, PullRequestURL                         string
	Kind, Detail                                        string
	Changed, Added, Removed                             string
	Attempts                                            int
	Started, Ended                                      moment
	Took, TaskHref                                      string
}

type itemsView struct {
	States []count // first of them: all
	Items  []itemView
	State  string
	First  string // address of the first page, on all others
	Next   string // of the next one; empty on the last
}

func newItemsView(at place, status batch.Status, items []batch.Item, next string) itemsView {
	view := itemsView{State: at.state}
	all := place{installation: at.installation, id: at.id}
	view.States = append(view.States, count{State: "all", Number: number(status.Total), Href: all.href(), Current: at.state == ""})
	for _, state := range itemStates {
		n := status.Totals[batch.ItemState(state)]
		there := place{at.installation, at.id, state, ""}
		view.States = append(view.States, count{State: state, Number: number(n), Href: there.href(), None: n == 0, Current: at.state == state})
	}
	for _, item := range items {
		view.Items = append(view.Items, newItemView(item))
	}
	if at.cursor != "" {
		view.First = place{at.installation, at.id, at.state, ""}.href()
	}
	if next != "" {
		view.Next = place{at.installation, at.id, at.state, next}.href()
	}
	return view
}

func newItemView(item batch.Item) itemView {
	view := itemView{
		Key: key("repository", item.Repository+"\n"+item.Job), Repository: secret.Scrub(item.Repository), State: string(item.State), Branch: secret.Scrub(item.Branch),
		Commit: item.Commit, ShortCommit: item.Commit[:min(len(item.Commit), 12)], Detail: secret.Scrub(item.Skipped), Attempts: item.Attempts,
		Started: newMoment(item.StartedAt), Ended: newMoment(item.EndedAt),
	}
	if item.Changed > 0 {
		view.Changed = number(item.Changed)
	}
	if item.Added > 0 || item.Removed > 0 {
		view.Added, view.Removed = number(item.Added), number(item.Removed)
	}
	if item.Failure != nil {
		view.Kind, view.Detail = item.Failure.Kind.String(), secret.Scrub(item.Failure.Detail)
	}
	if item.PullRequest != nil {
		view.PullRequest, view.PullRequestURL = strconv.Itoa(item.PullRequest.ID), webAddress(item.PullRequest.URL)
	}
	if !item.StartedAt.IsZero() && !item.EndedAt.IsZero() {
		view.Took = span(item.EndedAt.Sub(item.StartedAt))
	}
	if item.Job != "" {
		view.TaskHref = dashboardRoot + "/queues/" + keyspace.Queue(string(job.ClassBatch)) + "/tasks/" + url.PathEscape(cmp.Or(item.Task, item.Job))
	}
	return view
}

// webAddress is the address where it is one of a page, without what it might hold of a login.
func webAddress(address string) string {
	parsed, err := url.Parse(address)
	if err != nil || (parsed.Scheme != "https" && parsed.Scheme != "http") || parsed.Host == "" {
		return ""
	}
	parsed.User = nil
	return parsed.String()
}

type noticeView struct {
	Detail string
	At     time.Time // of the state that is shown; zero where none is
}

// Moment is At for the page.
func (n noticeView) Moment() moment { return newMoment(n.At) }

type summaryView struct {
	Shown string
	Parts []count // batches by state
}

func newSummary(recent []batch.Status) summaryView {
	numbers := map[string]int{}
	for _, status := range recent {
		numbers[string(status.State)]++
	}
	view := summaryView{Shown: number(len(recent))}
	for _, state := range []string{"resolving", "running", "paused", "stopped", "finished", "canceled"} {
		if n := numbers[state]; n > 0 {
			view.Parts = append(view.Parts, count{State: state, Number: number(n)})
		}
	}
	return view
}

// number has a comma between thousands.
func number(n int) string {
	digits := strconv.Itoa(n)
	for at := len(digits) - 3; at > 0 && digits[at-1] != '-'; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

func rate(perMinute float64) string {
	if perMinute < 10 {
		return strconv.FormatFloat(perMinute, 'f', 1, 64)
	}
	return number(int(perMinute + 0.5))
}

// span is a time that something takes, in its two largest units.
func span(d time.Duration) string {
	seconds := int(max(d, 0).Seconds() + 0.5)
	switch {
	case seconds < 60:
		return fmt.Sprintf("%d s", seconds)
	case seconds < 60*60:
		return twoUnits(seconds, 60, "min", 1, "s")
	case seconds < 24*60*60:
		return twoUnits(seconds, 60*60, "h", 60, "min")
	}
	return twoUnits(seconds, 24*60*60, "d", 60*60, "h")
}

func twoUnits(seconds, large int, largeName string, small int, smallName string) string {
	text := fmt.Sprintf("%s %s", number(seconds/large), largeName)
	if rest := seconds % large / small; rest > 0 {
		text += fmt.Sprintf(" %d %s", rest, smallName)
	}
	return text
}
