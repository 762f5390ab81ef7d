package receiver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/intake"
	"github.com/gitsmith/gitsmith/internal/job"
)

// memoryTokens is a vault. fail, where it is set, is what every call returns.
type memoryTokens struct {
	mutex     sync.Mutex
	kept      map[string]forge.OAuthToken
	installed []string
	fail      error
}

func (m *memoryTokens) Put(_ context.Context, installation string, actor forge.Actor, token forge.OAuthToken, _ time.Time) (bool, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	key := fmt.Sprint(installation, actor)
	newer := !token.Text.Equal(m.kept[key].Text)
	m.kept[key] = token
	return newer, m.fail
}

func (m *memoryTokens) Forget(_ context.Context, installation string) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	maps.DeleteFunc(m.kept, func(key string, _ forge.OAuthToken) bool { return strings.HasPrefix(key, installation) })
	return m.fail
}

func (m *memoryTokens) Take(_ context.Context, installation string, actor forge.Actor) (forge.OAuthToken, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	token, found := m.kept[fmt.Sprint(installation, actor)]
	if !found {
		return token, fault.Newf(fault.Expired, "there is no token")
	}
	return token, m.fail
}

func (m *memoryTokens) MarkInstalled(_ context.Context, installation string) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.installed = append(m.installed, installation)
	return m.fail
}

// memoryInstallations is what is known of installations. fail, where it is set, is what every call returns.
type memoryInstallations struct {
	mutex   sync.Mutex
	records map[string]installation.Record
	calls   []installation.Call
	ours    []string // commits
	dropped []string // names
	fail    error
}

func (m *memoryInstallations) Touch(_ context.Context, call installation.Call) (bool, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.calls = append(m.calls, call)
	record := m.records[call.ID]
	if record.State == installation.Gone {
		return false, m.fail
	}
	record.ID, record.State, record.AppVersion = call.ID, installation.Active, call.AppVersion
	m.records[call.ID] = record
	return true, m.fail
}

func (m *memoryInstallations) Remove(_ context.Context, id string) (time.Time, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.records[id] = installation.Record{ID: id, State: installation.Gone}
	return time.Now(), m.fail
}

func (m *memoryInstallations) DropName(_ context.Context, _, uuid string) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.dropped = append(m.dropped, uuid)
	return m.fail
}

func (m *memoryInstallations) IsOurs(_ context.Context, _, commit string) (bool, error) {
	return slices.Contains(m.ours, commit), m.fail
}

func (m *memoryInstallations) Get(_ context.Context, id string) (installation.Record, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	record, found := m.records[id]
	if !found && m.fail == nil {
		return record, fault.Newf(fault.NotFound, "nothing is known of this installation yet")
	}
	return record, m.fail
}

// memoryJobs is a queue that nobody works on. meddle, where it is set, is called first and its error returned.
type memoryJobs struct {
	mutex    sync.Mutex
	jobs     []job.Job // newest last
	status   map[string]job.Status
	woken    []string
	canceled []string
	meddle   func(ctx context.Context) error
}

func (m *memoryJobs) enter(ctx context.Context) (leave func(), err error) {
	if m.meddle != nil {
		if err := m.meddle(ctx); err != nil {
			return func() {}, err
		}
	}
	m.mutex.Lock()
	return m.mutex.Unlock, nil
}

func (m *memoryJobs) Enqueue(ctx context.Context, j job.Job) (job.Status, bool, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return job.Status{}, false, err
	}
	if i := slices.IndexFunc(m.jobs, func(there job.Job) bool { return there.ID == j.ID }); i >= 0 {
		if m.jobs[i].Digest != j.Digest {
			return job.Status{}, false, fault.Newf(fault.Conflict, "this Idempotency-Key was used for another request")
		}
		return m.status[j.ID], false, nil
	}
	meta := j.MetaOf()
	status := job.Status{
		ID: j.ID, State: job.Queued, Operation: meta.Operation, Repository: j.Repository.String(), Actor: j.Actor.Kind, Requester: j.Requester,
		Branch: meta.Branch, Ref: meta.Ref, CreatedAt: j.CreatedAt,
	}
	m.jobs = append(m.jobs, j)
	if m.status == nil {
		m.status = map[string]job.Status{}
	}
	m.status[j.ID] = status
	return status, true, nil
}

func (m *memoryJobs) find(installation, id string) (job.Status, error) {
	for _, j := range m.jobs {
		if j.ID == id && j.Installation == installation {
			return m.status[id], nil
		}
	}
	return job.Status{}, fault.Newf(fault.NotFound, "there is no job %q", id)
}

func (m *memoryJobs) Get(ctx context.Context, installation, id string) (job.Status, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return job.Status{}, err
	}
	return m.find(installation, id)
}

func (m *memoryJobs) List(ctx context.Context, installation string, options job.ListOptions) (job.List, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return job.List{}, err
	}
	skip, err := strconv.Atoi("0" + options.Cursor)
	if err != nil {
		return job.List{}, fault.Newf(fault.Invalid, "cursor: %.80q is none", options.Cursor)
	}
	var page job.List
	for i, j := range slices.Backward(m.jobs) {
		status := m.status[j.ID]
		if at := len(m.jobs) - 1 - i; at < skip || j.Installation != installation || options.State != "" && status.State != options.State || options.Requester != "" && status.Requester != options.Requester {
			continue
		}
		if options.Limit > 0 && len(page.Jobs) == options.Limit {
			page.Next = strconv.Itoa(len(m.jobs) - 1 - i)
			break
		}
		page.Jobs = append(page.Jobs, status)
	}
	return page, nil
}

func (m *memoryJobs) Cancel(ctx context.Context, installation, id string) (job.Status, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return job.Status{}, err
	}
	status, err := m.find(installation, id)
	if err == nil && status.State.Ended() {
		err = fault.Newf(fault.Conflict, "the job has ended already, as %s", status.State)
	}
	if err != nil {
		return job.Status{}, err
	}
	status.State, status.EndedAt = job.Canceled, time.Now()
	status.Failure = &job.Failure{Kind: fault.Canceled, Detail: "the job was canceled before it ran"}
	m.status[id] = status
	return status, nil
}

func (m *memoryJobs) Retry(ctx context.Context, installation, id string) (job.Status, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return job.Status{}, err
	}
	status, err := m.find(installation, id)
	if err == nil && !status.State.Ended() {
		err = fault.Newf(fault.Conflict, "the job is %s; only one that has ended can be retried", status.State)
	}
	if err != nil {
		return job.Status{}, err
	}
	status.State, status.EndedAt, status.Failure = job.Queued, time.Time{}, nil
	m.status[id] = status
	return status, nil
}

func (m *memoryJobs) Wake(ctx context.Context, installation string) (int, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return 0, err
	}
	m.woken = append(m.woken, installation)
	return 0, nil
}

func (m *memoryJobs) CancelAll(ctx context.Context, installation string) (int, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return 0, err
	}
	m.canceled = append(m.canceled, installation)
	return 0, nil
}

// set changes a job's status.
func (m *memoryJobs) set(id string, change func(*job.Status)) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	status := m.status[id]
	change(&status)
	m.status[id] = status
}

// queued are the jobs that were taken.
func (m *memoryJobs) queued() []job.Job {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return slices.Clone(m.jobs)
}

// awayIntake promises everything.
type awayIntake struct{}

func (*awayIntake) Away() bool { return true }

func (*awayIntake) Keep(context.Context, forge.Invocation) error { return nil }

func (*awayIntake) Take(_ context.Context, delivery intake.Delivery) (intake.Taken, error) {
	taken := intake.Taken{Spooled: true}
	for _, j := range delivery.Jobs {
		meta := j.MetaOf()
		taken.Jobs = append(taken.Jobs, intake.Job{Created: true, Status: job.Status{
			ID: j.ID, State: job.Queued, Operation: meta.Operation, Repository: j.Repository.String(), Actor: j.Actor.Kind, CreatedAt: j.CreatedAt,
		}})
	}
	return taken, nil
}
