package batch

import (
	"encoding/json"
	"strconv"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Entry is one repository as it is kept.
type Entry struct {
	Workspace      string      `json:"w,omitempty"`
	Slug           string      `json:"s,omitempty"`
	WorkspaceUUID  string      `json:"wu,omitempty"`
	RepositoryUUID string      `json:"ru,omitempty"`
	Values         []byte      `json:"v,omitempty"` // sealed
	Details        *Details    `json:"d,omitempty"`
	Expect         *job.Expect `json:"e,omitempty"` // of the dry run
	Index          *int        `json:"i,omitempty"` // of the dry run, whose expressions spoke of it; nil for its own number
}

// Details are what Bitbucket says of a repository beside its name.
type Details struct {
	Workspace  string `json:"w,omitempty"` // and Slug: of one that was given by its UUIDs
	Slug       string `json:"s,omitempty"`
	UUID       string `json:"u,omitempty"`
	Name       string `json:"n,omitempty"`
	Project    string `json:"p,omitempty"`
	Language   string `json:"l,omitempty"`
	MainBranch string `json:"m,omitempty"`
}

// EntryOf is a repository as a query found it.
func EntryOf(found bitbucket.Details) Entry {
	return Entry{Workspace: found.Repository.Workspace, Slug: found.Repository.Slug, Details: detailsOf(found, false)}
}

// detailsOf keeps what expressions can ask for. The name is kept where the repository was given by its UUIDs.
func detailsOf(found bitbucket.Details, withName bool) *Details {
	kept := &Details{UUID: found.UUID, Name: found.Name, Project: found.Project, Language: found.Language, MainBranch: found.MainBranch}
	if withName {
		kept.Workspace, kept.Slug = found.Repository.Workspace, found.Repository.Slug
	}
	return kept
}

// Describe adds to the entry what Bitbucket says of the repository.
func (e *Entry) Describe(found bitbucket.Details) { e.Details = detailsOf(found, e.Slug == "") }

// Repository is the repository as the caller named it.
func (e Entry) Repository() bitbucket.Repository {
	return bitbucket.Repository{Workspace: e.Workspace, Slug: e.Slug, WorkspaceUUID: e.WorkspaceUUID, RepositoryUUID: e.RepositoryUUID}
}

// Name is what callers call the repository.
func (e Entry) Name() string {
	if e.Slug == "" && e.Details != nil && e.Details.Slug != "" {
		return e.Details.Workspace + "/" + e.Details.Slug
	}
	return e.Repository().String()
}

// Encode is the entry as Redis keeps it.
func (e Entry) Encode() ([]byte, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "a repository cannot be encoded")
	}
	return text, nil
}

// DecodeEntry reads what Encode made of the repository with the number. An Internal fault says that it is damaged, or not there.
func DecodeEntry(number int, text string) (Entry, error) {
	var kept Entry
	if err := json.Unmarshal([]byte(text), &kept); err != nil {
		return Entry{}, fault.Wrapf(fault.Internal, err, "repository %d of the batch cannot be read", number)
	}
	return kept, nil
}

// openValues are the repository's values, sealed for its place in the batch.
func (e Entry) openValues(ring *secret.Keyring, installation, id string, number int) (values map[string]string, err error) {
	if len(e.Values) == 0 {
		return nil, nil
	}
	plain, err := ring.Open(e.Values, valuesContext(installation, id, number)...)
	if err == nil {
		err = json.Unmarshal(plain, &values)
	}
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "the repository's values cannot be opened: they are damaged, or their sealing key is not in GITSMITH_SEAL_KEYS any more")
	}
	return values, nil
}

func specContext(installation, id string) []string  { return []string{"batch", installation, id} }
func titleContext(installation, id string) []string { return []string{"batch title", installation, id} }
func valuesContext(installation, id string, item int) []string {
	return []string{"batch values", installation, id, strconv.Itoa(item)}
}
