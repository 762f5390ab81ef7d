package queue

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
)

// fieldsOf are a new record's, in the order that createScript counts on; what is not there is empty or zero.
func fieldsOf(j job.Job, now time.Time) []any {
	meta := j.MetaOf()
	fields := []any{
		"id", j.ID, "digest", j.Digest, "class", string(j.Class), "operation", string(meta.Operation), "repository", j.Repository.String(),
		"actor", string(j.Actor.Kind), "created", j.CreatedAt.UnixMilli(), "generation", j.Generation, "opened", now.UnixMilli(),
		"state", string(job.Queued),
	}
	for _, field := range [][2]string{{"branch", meta.Branch}, {"ref", meta.Ref}, {"rule", j.Rule}} {
		if field[1] != "" {
			fields = append(fields, field[0], field[1])
		}
	}
	return fields
}

// record is a record as it was read.
type record map[string]string

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

func (r record) status() job.Status {
	status := job.Status{
		ID: r["id"], State: job.State(r["state"]), Operation: job.Operation(r["operation"]), Repository: r["repository"],
		Actor: forge.ActorKind(r["actor"]), Branch: r["branch"], Ref: r["ref"], Rule: r["rule"], Attempts: r.number("attempts"),
		CreatedAt: r.time("created"), StartedAt: r.time("started"), EndedAt: r.time("ended"), NextAt: r.time("next"),
	}
	if text := r["result"]; text != "" {
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
func read(ctx context.Context, client redis.UniversalClient, installation, id string) (record, error) {
	fields, err := client.HGetAll(ctx, recordKey(installation, id)).Result()
	if err != nil {
		return nil, unavailable(err, "look up job")
	}
	if len(fields) == 0 {
		return nil, fault.Newf(fault.NotFound, "there is no job %.40q, or its time is over", id)
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
