package forge

import (
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// claims is a FIT's payload, as far as it is used. The same fact stands at several places in what Forge documents; the
// methods read them in order.
type claims struct {
	jwt.RegisteredClaims
	App struct {
		ID             string `json:"id"`
		Version        string `json:"appVersion"`
		InstallationID string `json:"installationId"`
		APIBaseURL     string `json:"apiBaseUrl"`
		Installation   struct {
			ID       string `json:"id"`
			Contexts []struct {
				Name        string `json:"name"`
				WorkspaceID string `json:"workspaceId"`
			} `json:"contexts"`
		} `json:"installation"`
		Environment struct {
			Type string `json:"type"`
			ID   string `json:"id"`
		} `json:"environment"`
		Module struct {
			Type string `json:"type"`
			Key  string `json:"key"`
		} `json:"module"`
	} `json:"app"`
	Context struct {
		WorkspaceID string `json:"workspaceId"`
	} `json:"context"`
	Principal string `json:"principal"`
	ICLabel   string `json:"icLabel"`
}

func (c *claims) installation() string {
	if c.App.InstallationID != "" {
		return c.App.InstallationID
	}
	return c.App.Installation.ID
}

func (c *claims) workspaceID() string {
	if id := strings.Trim(c.Context.WorkspaceID, "{}"); id != "" {
		return id
	}
	for _, context := range c.App.Installation.Contexts {
		if context.WorkspaceID != "" {
			return strings.Trim(context.WorkspaceID, "{}")
		}
	}
	return ""
}
