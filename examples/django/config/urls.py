"""The pages of the site."""

from django.contrib import admin
from django.urls import path
from reports import views

urlpatterns = [
    path("", views.index, name="index"),
    path("reports.json", views.progress, name="progress"),
    path("admin/", admin.site.urls),
]
