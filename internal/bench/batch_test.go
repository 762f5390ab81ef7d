package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/batch"
)

const (
	batchRepositories = 500
	batchAtOnce       = 16
	// batchVariable tells `make bench-batch` of how many repositories the batch is, batchRepositories by default.
	batchVariable = "GITSMITH_BENCH_REPOSITORIES"
	batchPoll     = 100 * time.Millisecond
)

// BenchmarkBatch is one change over many repositories: a batch beside the command line.
func BenchmarkBatch(b *testing.B) {
	var tables []Table
	b.Run("small", func(b *testing.B) {
		f := fleetOnDisk(b, numberOf(b, batchVariable, batchRepositories), batchAtOnce)
		rows := batchRows()
		for range numberOf(b, roundsVariable, minRounds) {
			f.batchRound(rows)
			printLast("batch", rows)
		}
		tables = batchTables(rows, f.batchMemory(), len(f.all))
	})
	if len(tables) > 0 {
		report(b, "batch", Machine(b.Context())+", "+time.Now().Format(time.DateOnly), tables)
	}
}

// batchRows are the rows, without figures.
func batchRows() []Row {
	return []Row{
		{Name: "git: xargs -P 16 of clone --depth 1, edit, commit, push"},
		{Name: "batch, no filter", Bound: 0.65},
		{Name: "batch, filter offered", Bound: 0.42},
		{Name: "as many jobs, asked for one by one, no filter"},
	}
}

// batchRound takes each way once.
func (f *fleet) batchRound(rows []Row) {
	f.tb.Helper()
	tips := filepath.Join(f.root, "tips")
	f.inTurn(len(rows[0].Samples), []func(){
		func() { rows[0].Samples = append(rows[0].Samples, f.byXargs()) },
		func() { rows[1].Samples = append(rows[1].Samples, f.byBatch(false, tips)) },
		func() { rows[2].Samples = append(rows[2].Samples, f.byBatch(true, tips)) },
		func() { rows[3].Samples = append(rows[3].Samples, f.byWorkers(false, tips)) },
	}, tips)
}

// byBatch edits all of them by one batch, from the call that asks for it until a look at it says that it has ended.
func (f *fleet) byBatch(filter bool, tips string) Sample {
	f.tb.Helper()
	f.reset(filter)
	ask := f.batchRequest()
	id := ""
	sample := f.byWorker(tips, func(log string) {
		id = f.ask(ask).ID
		f.awaitBatch(id, log)
	})
	f.checkTrailers(id)
	return sample
}

// batchRequest asks for the batch.
func (f *fleet) batchRequest() *http.Request {
	f.tb.Helper()
	targets := make([]string, len(f.all))
	for i := range targets {
		targets[i] = fmt.Sprintf(`{"workspace": "bench", "slug": "r%d"}`, i)
	}
	return f.request(http.MethodPost, f.base+"/v1/batches", fmt.Sprintf(`{"repositories": [%s], "concurrency": %d, "push": `+jobPush+`}`,
		strings.Join(targets, ", "), f.atOnce, f.file, f.words))
}

// ask is the batch that a call answers with.
func (f *fleet) ask(request *http.Request) (status batch.Status) {
	f.tb.Helper()
	answer, err := f.client.Do(request)
	if err != nil {
		f.tb.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("status %d: %s", answer.StatusCode, text)
	}
	if err == nil {
		err = json.Unmarshal(text, &status)
	}
	if err != nil {
		f.tb.Fatal(err)
	}
	return status
}

// awaitBatch looks at the batch as a caller does until it has ended, with every repository changed.
func (f *fleet) awaitBatch(id, log string) {
	f.tb.Helper()
	ctx, cancel := context.WithTimeout(f.tb.Context(), fitLife-time.Minute)
	defer cancel()
	look := f.request(http.MethodGet, f.base+"/v1/batches/"+id, "")
	poll := time.NewTicker(batchPoll)
	defer poll.Stop()
	for {
		status := f.ask(look)
		if status.State == batch.StateFinished && status.Totals[batch.Succeeded] == len(f.all) {
			return
		}
		ended := !status.EndedAt.IsZero()
		select {
		case <-poll.C:
		case <-ctx.Done():
			ended = true
		}
		if ended {
			said, _ := os.ReadFile(log)
			f.tb.Fatalf("the batch is not done: %+v\n%s", status, said)
		}
	}
}

// checkTrailers lets git say that the commit of each repository names its job, once.
func (f *fleet) checkTrailers(id string) {
	f.tb.Helper()
	for i, repository := range f.all {
		want := batch.JobID(id, i)
		if got := repository.git("log", "--format=%(trailers:key=Forge-Job,valueonly,separator=%x2C)", repository.tip+"..refs/heads/main"); got != want {
			f.tb.Fatalf("%s: the trailer names the jobs %q, want %q", repository.path, got, want)
		}
	}
}

// batchTables are the comparison, what the programs took of the processors, and the memory.
func batchTables(rows []Row, memory Table, n int) []Table {
	note := fmt.Sprintf("Time from POST /v1/batches to the first look at the batch, one each %s, that sees its end; by one worker with %d slots that has just started.\n"+
		"Memory and processor time are the worker's. Each repository has exactly one commit, of its own job, and git fsck --strict is clean.",
		milliseconds(batchPoll), batchAtOnce)
	processors := Table{
		Title:  "Processor time for a repository of the batch",
		Header: []string{"way", "client, worker", "Redis", "receiver"},
	}
	for _, row := range rows {
		each := func(value func(Sample) time.Duration) string {
			return fmt.Sprintf("%.2f ms", median(row.Samples, value).Seconds()*1000/float64(n))
		}
		processors.Rows = append(processors.Rows, []string{
			row.Name, each(func(s Sample) time.Duration { return s.CPU }), each(func(s Sample) time.Duration { return s.Redis }),
			each(func(s Sample) time.Duration { return s.Receiver }),
		})
	}
	return []Table{comparison(fmt.Sprintf("A batch of %d repositories, one edit each, %d at a time", n, batchAtOnce), note, rows), processors, memory}
}
