package batch

import (
	"regexp"
	"slices"
	"strings"

	"github.com/gitsmith/gitsmith/internal/job"
)

const (
	maxGroups   = 20
	maxExamples = 5
)

// Cause is a [Group] whose examples are still numbers of repositories.
type Cause struct {
	Group
	Numbers []int
}

// CausesOf groups repositories by why they failed or were skipped, the most frequent reason first. numbers are the repositories, and jobs
// how the job of each has ended.
func CausesOf(numbers []int, jobs []job.Status) []Cause {
	var causes []Cause
	places := map[string]int{}
	for i, status := range jobs {
		kind, reason := whyOf(status)
		place, found := places[kind+" "+reason]
		if !found {
			place = len(causes)
			places[kind+" "+reason] = place
			causes = append(causes, Cause{Group: Group{Kind: kind, Reason: reason}})
		}
		causes[place].Count++
		if len(causes[place].Numbers) < maxExamples {
			causes[place].Numbers = append(causes[place].Numbers, numbers[i])
		}
	}
	slices.SortStableFunc(causes, func(a, b Cause) int { return b.Count - a.Count })
	return causes[:min(len(causes), maxGroups)]
}

// whyOf is why a job failed or was skipped, with … for what is its own.
func whyOf(status job.Status) (kind, reason string) {
	switch {
	case status.Failure != nil:
		kind, reason = status.Failure.Kind.String(), status.Failure.Detail
	case status.Result != nil && status.Result.Push != nil:
		reason = status.Result.Push.Skipped
	default:
		return "", "what became of it is not kept any more"
	}
	if status.Repository != "" {
		reason = strings.ReplaceAll(reason, status.Repository, "…")
		if _, slug, found := strings.Cut(status.Repository, "/"); found && len(slug) > 2 && strings.Contains(reason, slug) {
			reason = wordOf(slug).ReplaceAllString(reason, "$1…$2")
		}
	}
	return kind, ownText.ReplaceAllString(reason, "…")
}

// ownText is what differs between repositories that fail for the same reason: object hashes and UUIDs.
var ownText = regexp.MustCompile(`\b[0-9a-f]{40}\b|\{?\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b\}?`)

func wordOf(slug string) *regexp.Regexp {
	return regexp.MustCompile(`(^|[^\w.-])` + regexp.QuoteMeta(slug) + `($|[^\w-])`)
}
