package ledger

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// shortField is the longest value that Redis keeps packed (hash-max-listpack-value, 64 by default). A record with a longer one becomes a
// hash table, which takes twice the memory and, while its job is queued, a tenth more of Redis's time.
const shortField = 64

// fieldsOf are a new record's, beside when its run was opened; what is not there is empty or zero. A repository whose name is
// too long, as that of two UUIDs is, stands in two fields.
func fieldsOf(meta job.Meta) []any {
	workspace, repository := "", meta.Repository.String()
	if len(repository) > shortField {
		workspace, repository, _ = strings.Cut(repository, "/")
	}
	fields := []any{
		"id", meta.ID, "digest", meta.Digest, "class", string(meta.Class), "operation", string(meta.Operation), "repository", repository,
		"actor", string(meta.Actor.Kind), "created", meta.CreatedAt.UnixMilli(), "generation", meta.Generation, "state", string(job.Queued),
	}
	for _, field := range [][2]string{{"branch", meta.Branch}, {"ref", meta.Ref}, {"rule", meta.Rule}, {"workspace", workspace}, {"requester", meta.Requester}} {
		if field[1] != "" {
			fields = append(fields, field[0], field[1])
		}
	}
	if meta.Batch != "" {
		fields = append(fields, "batch", meta.Batch, "item", meta.Item)
	}
	return fields
}

// record is a record as it was read.
type record map[string]string

// inParts are the fields of a text that may be too long for one: field, then field.1 and so on. The first one that is not full is the last.
func inParts(field, text string) (fields []any) {
	for name, part := field, 1; ; part++ {
		size := min(len(text), shortField)
		fields = append(fields, name, text[:size])
		if size < shortField {
			return fields
		}
		name, text = field+"."+strconv.Itoa(part), text[size:]
	}
}

// text puts together what inParts took apart. A text that an older version left whole is longer than a part, and complete.
func (r record) text(field string) string {
	text := r[field]
	for last, part := text, 1; len(last) == shortField; part++ {
		last = r[field+"."+strconv.Itoa(part)]
		text += last
	}
	return text
}

func (r record) time(field string) time.Time {
	milliseconds, err := strconv.ParseInt(r[field], 10, 64)
	if err != nil || milliseconds == 0 {
		return time.Time{}
	}
	return time.UnixMilli(milliseconds).UTC()
}

func (r record) number(field string) int {
	number, _ := strconv.Atoi(r[field]) // a field that is not there is zero
	return number
}

// repository is its whole name.
func (r record) repository() string {
	if workspace := r["workspace"]; workspace != "" {
		return workspace + "/" + r["repository"]
	}
	return r["repository"]
}

func (r record) status() job.Status {
	status := job.Status{
		ID: r["id"], State: job.State(r["state"]), Operation: job.Operation(r["operation"]), Repository: r.repository(),
		Actor: forge.ActorKind(r["actor"]), Requester: r["requester"], Branch: r["branch"], Ref: r["ref"], Rule: r["rule"], Batch: r["batch"], Generation: r.number("generation"), Attempts: r.number("attempts"),
		CreatedAt: r.time("created"), StartedAt: r.time("started"), EndedAt: r.time("ended"), NextAt: r.time("next"),
	}
	status.Ticket = Ticket{Job: status.ID, Generation: status.Generation, Serial: r.number("serial")}.ID()
	if text := r.text("result"); text != "" {
		result := new(job.Result)
		if json.Unmarshal([]byte(text), result) == nil {
			status.Result = result
		}
	}
	if text := r["failure"]; text != "" && status.State != job.Succeeded {
		failure := new(job.Failure)
		if json.Unmarshal([]byte(text), failure) == nil {
			status.Failure = failure
		}
	}
	return status
}

// read is a job's record, or a NotFound fault.
func (l *Ledger) read(ctx context.Context, installation, id string) (record, error) {
	fields, err := l.Redis.HGetAll(ctx, keyspace.Installation(installation).Job(id)).Result()
	if err != nil {
		return nil, unavailable(err, "look up job")
	}
	if len(fields) == 0 {
		return nil, notThere(id)
	}
	return fields, nil
}

func failureText(kind fault.Kind, detail string) string {
	text, err := json.Marshal(job.Failure{Kind: kind, Detail: detail})
	if err != nil {
		return "" // it is two strings; it always encodes
	}
	return string(text)
}

// Get is a job of the installation, or a NotFound fault.
func (l *Ledger) Get(ctx context.Context, installation, id string) (job.Status, error) {
	found, err := l.read(ctx, installation, id)
	if err != nil {
		return job.Status{}, err
	}
	return found.status(), nil
}

// GetAll are several jobs of the installation, the zero Status for one that is not there.
func (l *Ledger) GetAll(ctx context.Context, installation string, ids []string) ([]job.Status, error) {
	all := make([]job.Status, 0, len(ids))
	for page := range slices.Chunk(ids, eachPage) {
		pipeline := l.Redis.Pipeline()
		answers := make([]*redis.MapStringStringCmd, len(page))
		for i, id := range page {
			answers[i] = pipeline.HGetAll(ctx, keyspace.Installation(installation).Job(id))
		}
		if _, err := pipeline.Exec(ctx); err != nil {
			return nil, unavailable(err, "look up jobs")
		}
		for _, answer := range answers {
			if found := record(answer.Val()); len(found) > 0 {
				all = append(all, found.status())
			} else {
				all = append(all, job.Status{})
			}
		}
	}
	return all, nil
}
